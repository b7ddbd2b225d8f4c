import pytest

from agents.configs import RunConfig
from training.parts import check_critics


def test_the_training_critic_neither_selects_nor_reports():
    check_critics(RunConfig())
    with pytest.raises(ValueError, match="--select-critic embedded is the training critic itself"):
        check_critics(RunConfig(select_critic="embedded"))
    with pytest.raises(ValueError, match="--report-critic embedded-select also selects"):
        check_critics(RunConfig(report_critic="embedded-select"))


def test_members_of_a_file_count_as_the_critics_they_are(tmp_path):
    file = tmp_path / "two.yaml"
    file.write_text("mean: [{critic: likelihood-recall}, {critic: embedded-report, weight: 2}]\n")
    spec = f"file:{file}"
    with pytest.raises(ValueError, match=f"--report-critic embedded-report is in {spec}"):
        check_critics(RunConfig(critic=spec))
    with pytest.raises(ValueError, match="--select-critic file:nowhere.yaml cannot be read"):
        check_critics(RunConfig(select_critic="file:nowhere.yaml"))
