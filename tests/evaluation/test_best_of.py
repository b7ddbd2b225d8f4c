import pytest

from evaluation.best_of import best_line


@pytest.mark.parametrize(
    ("scores", "lost", "place"),
    [
        ([1.0, 3.0, 2.0], [False] * 3, 1),
        ([2.0, 2.0], [False] * 2, 0),
        ([9.0, 1.0], [True, False], 1),
        ([None, -5.0], [False] * 2, 1),
        ([None, None], [False] * 2, None),
        ([None, 9.0], [False, True], None),  # the lost line is no stand-in for a missing verdict
        ([None, 9.0], [True, True], 0),
    ],
)
def test_the_highest_scored_line_that_is_not_lost(scores, lost, place):
    assert best_line(scores, lost) == place


@pytest.mark.parametrize(("scores", "lost"), [([], []), ([1.0], [])])
def test_nothing_to_pick_from_is_refused(scores, lost):
    with pytest.raises(ValueError, match="best_line"):
        best_line(scores, lost)
