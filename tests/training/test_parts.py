import pytest

from agents.configs import RunConfig
from training.parts import check_critics, recorded_as


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


def test_runs_of_one_name_do_not_share_a_budget(tmp_path):
    """Two runs of a comparison that begin in the same second."""
    run = RunConfig(ledger=str(tmp_path / "ledger.sqlite"))
    a, b = (tmp_path / "runs" / m / "ppo-start-s0-20261127-203001" for m in ("bare-s0", "kl-s0"))
    assert recorded_as(run, a) == "runs/bare-s0/ppo-start-s0-20261127-203001"
    assert recorded_as(run, a) != recorded_as(run, b)
    assert recorded_as(RunConfig(), a) == a.name  # alone, beside the ledger: as --replay is told
    elsewhere = RunConfig(ledger=str(tmp_path / "other" / "ledger.sqlite"))
    assert recorded_as(elsewhere, a) == a.name
