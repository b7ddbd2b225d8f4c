"""README and code stay in step: every command runs something that is there, with its flags."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import compare
from benchmarks import seeds

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))


def shell_lines(text):
    """Commands of the shell blocks, continued lines joined, comments dropped."""
    for block in re.findall(r"```(?:bash|sh|shell)\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if command := line.strip():
                yield command


def calls(text):
    """(target, arguments) of every `python X.py ...` or `python -m package.module ...`."""
    for line in shell_lines(text):
        for command in re.split(r"\s*(?:&&|\|\||;|\|)\s*", line):
            words = shlex.split(command, comments=True)
            if not words or not re.fullmatch(r"(?:\S*/)?python3?", words[0]):
                continue
            if words[1] == "-m":
                yield words[2], words[3:]
            elif words[1].endswith(".py"):
                yield words[1], words[2:]


OURS = sorted(
    {
        (target, tuple(arguments))
        for text in (README, *(d.read_text() for d in DOCS))
        for target, arguments in calls(text)
        if target not in ("venv", "pytest", "pip")
    }
)


@cache
def help_text(target, algo):
    start = [target] if target.endswith(".py") else ["-m", target]
    done = subprocess.run(
        [sys.executable, *start, *algo, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(("target", "arguments"), OURS, ids=lambda v: str(v)[:60])
def test_commands_name_what_exists_with_flags_that_help_shows(target, arguments):
    path = target if target.endswith(".py") else target.replace(".", "/") + ".py"
    assert (ROOT / path).is_file()
    flags = {a.split("=")[0] for a in arguments if re.match(r"--?[a-zA-Z]", a)}
    if flags:
        algo = arguments[arguments.index("--algo") :][:2] if "--algo" in arguments else ()
        shown = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", help_text(target, tuple(algo))))
        assert flags <= shown


def test_readme_shows_the_main_job_and_a_program_to_use_its_result():
    assert {"train.py", "joke.py"} <= {target for target, _ in OURS}


def test_both_set_up_commands_install_the_tested_versions():
    set_up = [line for line in shell_lines(README) if "pip install" in line]
    assert len(set_up) == 2
    for line in set_up:
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt ")
    assert set_up[0].endswith("&& .venv/bin/python train.py --algo ppo")
    assert set_up[1].endswith("&& .venv/bin/python -m pytest")


def test_ci_runs_the_readme_test_command():
    command = next(x for x in shell_lines(README) if x.endswith("&& .venv/bin/python -m pytest"))
    done = subprocess.run(
        [str(ROOT / ".ci" / "run"), "--show"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == command


def logged_keys():
    """String literals like "policy/entropy"; of f-strings, a star for what is filled in."""
    groups = (
        "reward|critic|gate|control|joke|policy|loss|select|tuned|pairs|imitation|ranking|gather"
        "|run|alarm|time"
    )
    parts = ("agents", "rewards", "envs", "training")
    files = [f for part in parts for f in sorted((ROOT / part).rglob("*.py"))]
    for file in (*files, *sorted(ROOT.glob("*.py"))):
        code = file.read_text()
        yield from re.findall(rf'[^f]"((?:{groups}|value)/[a-z0-9_]+)"', code)
        for key in re.findall(rf'f"((?:{groups})/[^"]+)"', code):
            yield re.sub(r"\{[^}]*\}", "*", key)


def test_every_logged_key_is_defined():
    page = (ROOT / "docs" / "metrics.md").read_text()
    defined = set(re.findall(r"`([a-z_]+/[^`]+)`", page))
    keys = set(logged_keys())
    assert len(keys) > 20
    assert keys - defined == set()


def test_files_that_readme_names_exist():
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", README):
        assert (ROOT / link).exists(), link


def test_no_page_names_a_path_of_somebodys_machine():
    for page in (ROOT / "README.md", *DOCS, *sorted((ROOT / "data").rglob("*.md"))):
        assert not re.search(r"(?:^|[\s`(])/(?:home|work|root|tmp|Users)/", page.read_text()), page


# ---- published comparisons

PUBLISHED = sorted(ROOT.glob("results/*/comparison.json"))


def rows_of(text):
    """(first cell, {heading: cell}) of every table row, without emphasis and escapes."""
    rows, heads = [], None
    for line in text.splitlines():
        if not line.startswith("|"):
            heads = None
        elif not line.startswith("|--"):
            cells = [re.sub(r"[*\\]", "", c).strip("| ") for c in line.split(" | ")]
            if heads is None:
                heads = cells
            else:
                rows.append((cells[0], dict(zip(heads[1:], cells[1:], strict=False))))
    return rows


def copy_as_cloned(folder, target):
    """What a clone holds: what git ignores or does not know is not there."""
    told = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--", "."],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    files = [folder / name for name in told.stdout.split("\0") if name]
    for file in files or [f for f in folder.rglob("*") if f.is_file()]:  # no git: all there is
        place = target / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda f: f.parent.name)
def test_a_published_comparison_works_its_figures_out_again(file, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy_as_cloned(file.parent, copy)
    (copy / "table.md").unlink()
    assert compare.main(["--out", str(copy), "--report-only"]) == 0
    capsys.readouterr()
    assert (copy / "table.md").read_text() == (file.parent / "table.md").read_text()


QUOTED = [
    pytest.param(name, block, id=f"{page.name}-{name}-{i}")
    for page in (ROOT / "README.md", *DOCS)
    for i, (name, block) in enumerate(
        re.findall(
            r"<!-- figures of (\S+) -->(.*?)<!-- end of figures -->", page.read_text(), re.DOTALL
        )
    )
]


def test_readme_and_docs_quote_published_comparisons():
    pages = {str(q.id).partition("-")[0] for q in QUOTED}
    assert "README.md" in pages
    assert {q.values[0] for q in QUOTED} == {file.parent.name for file in PUBLISHED}


@pytest.mark.parametrize(("name", "block"), QUOTED)
def test_quoted_figures_are_those_of_the_published_comparison(name, block):
    published = rows_of((ROOT / "results" / name / "table.md").read_text())
    headings = {h for _, cells in published for h in cells}
    shown = rows_of(block)
    assert shown
    for system, cells in shown:
        own = [known for first, known in published if first == system]
        for heading, cell in cells.items():
            known = {k.get(heading, "") for k in own if heading in k}
            if heading not in headings:  # a split named in the heading: of any table of this row
                known = {c for k in own for c in k.values()}
            assert cell in known, f"{system}, {heading}"


@pytest.mark.parametrize("system", ["PPO", "control", "PPO with `--advantage gae`"])
def test_the_first_table_is_that_of_the_published_runs(system, capsys):
    folders = {"PPO": "ppo-s*", "control": "control-s*", "PPO with `--advantage gae`": "gae-s*"}
    seeds.main([str(f) for f in sorted((ROOT / "results" / "ppo").glob(folders[system]))])
    pooled = dict(rows_of(capsys.readouterr().out))
    shown = dict(rows_of(README.split("<!-- results -->")[1].split("<!-- end of results -->")[0]))
    assert shown[f"{system}, sampled at 0.7"] == pooled["best"]
    assert shown[f"{system}, tuned decoding"] == pooled["best-tuned"]
    if system == "PPO":
        assert shown["start-tuned (greedy)"] == pooled["start-tuned"]
        assert shown["start, sampled at 0.7"] == pooled["start"]
        assert shown["best of 4 by the training critic"] == pooled["best-of-4"]
