"""Writes roles.json: which prompts and labels serve what. Run once; the file is the contract.

    python data/make_roles.py > data/roles.json

All train prompts serve RL. Their labels are split 60/20/20 over the train, select and report
critics, stratified by file and by the rounds that judged a prompt; the train critic's prompts fall
into five folds for cross-fitting. `select` and `report` halve the validation prompts by file. Test,
headline and summary prompts are listed and otherwise untouched.
"""

import hashlib
import json
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent
FOLDS = 5


def _records(name: str) -> list[dict]:
    return [json.loads(line) for line in (HERE / name).read_text().splitlines()]


def _shuffled(ids: list[str]) -> list[str]:
    """An order that depends on nothing but the ids."""
    return sorted(ids, key=lambda i: hashlib.sha256(f"punchline roles {i}".encode()).hexdigest())


def make_roles() -> dict:
    """Assign every prompt id of the corpus to its roles."""
    split: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in ("everyday", "prompts", "headline", "summary"):
        for record in _records(f"{name}.jsonl"):
            split[record["split"]].append((name, record["id"]))
    rounds: dict[str, set[int]] = defaultdict(set)
    for record in _records("judgments.jsonl"):
        rounds[record["id"]].add(record["round"])
    labels: dict[str, list[str]] = {"train": [], "select": [], "report": []}
    strata: dict[tuple, list[str]] = defaultdict(list)
    for name, i in split["train"]:
        if rounds[i]:
            strata[name, tuple(sorted(rounds[i]))].append(i)
    for _, ids in sorted(strata.items()):
        for place, i in enumerate(_shuffled(ids)):
            labels[("train", "train", "train", "select", "report")[place % 5]].append(i)
    halves: dict[str, list[str]] = {"select": [], "report": []}
    by_file: dict[str, list[str]] = defaultdict(list)
    for name, i in split["validation"]:
        by_file[name].append(i)
    for _, ids in sorted(by_file.items()):
        for place, i in enumerate(_shuffled(ids)):
            halves[("select", "report")[place % 2]].append(i)
    test: dict[str, list[str]] = defaultdict(list)
    for name, i in split["test"]:
        test["everyday" if name == "prompts" else name].append(i)
    return {
        "rl": sorted(i for _, i in split["train"]),
        "select": sorted(halves["select"]),
        "report": sorted(halves["report"]),
        "test": {name: sorted(ids) for name, ids in sorted(test.items())},
        "labels": {role: sorted(ids) for role, ids in labels.items()},
        "folds": {i: k % FOLDS for k, i in enumerate(_shuffled(labels["train"]))},
    }


if __name__ == "__main__":
    print(json.dumps(make_roles(), indent=1))
