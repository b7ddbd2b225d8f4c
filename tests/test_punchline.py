import re
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import punchline
from rewards.fakes import CopiesWin

ROOT = Path(__file__).parents[1]
PROMPTS = ["The bus left.", "I lost my keys.", "It rained all day.", "The cat ate."]


def run(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=env or None
    )


def test_importing_it_loads_neither_torch_nor_transformers():
    code = (
        "import punchline, sys; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    assert run(code).stdout == "[]\n"


def test_every_public_name_exists():
    names = [name for name in punchline.__all__ if name != "Student"]  # needs torch
    assert [name for name in names if not hasattr(punchline, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'Teacher'"):
        _ = punchline.Teacher


def reward():
    return punchline.CompositeReward(punchline.build_critic("fake:copies-win"))


def test_the_registered_env_passes_the_checker():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make("Humor-v0", prompts=PROMPTS, reward=reward())
        check_env(env.unwrapped, skip_render_check=True)
        env.reset(seed=0)
        assert env.step("the bus left")[2]


def test_the_registered_vector_env_is_the_native_one():
    envs = gymnasium.make_vec(
        "Humor-v0", num_envs=8, prompts=PROMPTS, reward=reward(), group_size=4, seed=0
    )
    assert isinstance(envs, punchline.HumorVectorEnv)
    assert (envs.num_prompts, envs.group_size) == (2, 4)
    prompts, _ = envs.reset()
    assert envs.step(prompts)[1].tolist() == [1.0] * 8
    with pytest.raises(ValueError, match="multiple of group_size 3"):
        gymnasium.make_vec("Humor-v0", num_envs=8, prompts=PROMPTS, reward=reward(), group_size=3)


def test_without_weights_the_default_env_names_the_command_and_downloads_nothing(tmp_path):
    code = "import gymnasium, punchline; gymnasium.make('Humor-v0')"
    done = run(code, PUNCHLINE_CACHE=str(tmp_path / "empty"), PATH="/usr/bin:/bin")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "python -m models.sources smollm2-135m" in last
    assert not (tmp_path / "empty").exists()


def test_the_examples_of_the_docs_run_and_plug_in(tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs" / "critics.md").read_text()
    example, bridges = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert sum(1 for line in example.splitlines() if line.strip()) <= 15
    (tmp_path / "mine.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    try:
        critic = punchline.build_critic("mine:make")
        assert capsys.readouterr().out == "2.0\n"
        assert critic.score(["p"], ["Ha!"]) == [1.0]
        described = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
        scores = []
        for content in described:
            (tmp_path / "critic.yaml").write_text(content)
            scores += punchline.build_critic("file:critic.yaml").score(["p"], ["A moose!"])
        # the mean of 1 and 1; the penalised mean of 0 (one mark, standardised) and min(1, 0)
        assert scores == [pytest.approx(1.0), pytest.approx(0.0)]
    finally:
        sys.modules.pop("mine", None)
    exec(compile(bridges, "critics.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == [
        "[1.0]",
        "[3.0, None]",
        "[0.25, None] {'critic/failed/ZeroDivisionError': 1.0}",
    ]


def test_the_example_critic_plugs_in_from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    critic = punchline.build_critic("examples.word_critic:make", {"words": "Moose, cheese"})
    assert critic.score(["p"] * 3, ["a moose ate cheese", "no", ""]) == [2.0, 0.0, None]
    with pytest.raises(ValueError, match="need at least one word"):
        punchline.build_critic("examples.word_critic:make", {"words": " , "})
    env = punchline.HumorEnv(PROMPTS, punchline.CompositeReward(critic))
    env.reset(seed=0)
    assert env.step("my moose is late")[1] == 1.0


def test_the_default_reward_sees_no_label_of_the_select_and_report_critics(monkeypatch):
    monkeypatch.setattr(punchline, "embedded_context", lambda kind: {})
    monkeypatch.setattr(punchline, "build_critic", lambda spec, **context: CopiesWin())
    seen = {}
    monkeypatch.setattr(punchline, "build_reward", lambda *args, **options: seen.update(options))
    punchline.default_reward()
    allowed = {p.text for p in punchline.corpus_prompts("labels-train")}
    assert len(seen["calibration"]) == punchline.CALIBRATION_JOKES
    assert {j.prompt for j in seen["calibration"]} <= allowed
