from training.kept import kept


def test_what_was_made_once_is_kept_and_anything_else_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("PUNCHLINE_CACHE", str(tmp_path))
    made = []

    def make():
        made.append(1)
        return [0.4, {"0.4": 2.5}]

    assert kept("things", ["a", 1], make) == kept("things", ["a", 1], make) == [0.4, {"0.4": 2.5}]
    assert len(made) == 1
    kept("things", ["a", 2], make)
    kept("others", ["a", 1], make)
    assert len(made) == 3
