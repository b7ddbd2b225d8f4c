"""Results kept in the cache folder: what every run and evaluation would work out again."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from agents.student import Student
from models.sources import cache_dir
from rewards.embedded import manifest_of
from training.run_folder import package_version


def kept(kind: str, about: Sequence[object], make: Callable[[], Any]) -> Any:
    """What `make` gave when it was first asked about the same, as JSON gives it back.

    Args:
        kind: folder within the cache folder.
        about: everything that the result depends on, as texts.
        make: gives something JSON can hold.
    """
    key = hashlib.sha256("\n".join(map(str, about)).encode()).hexdigest()[:24]
    file = cache_dir() / kind / f"{key}.json"
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    made = json.dumps(make())
    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_suffix(f".{os.getpid()}")
    scratch.write_text(made, encoding="utf-8")
    os.replace(scratch, file)
    return json.loads(made)


def student_key(student: Student) -> list[str]:
    """What the lines of a student's start depend on, as far as the student itself goes."""
    base = student.base
    computed = [str(base.model.dtype), str(base.model.device)]
    return [base.sha256, student.start_sha256, student.format.kind, package_version(), *computed]


def critic_key(kind: str) -> list[str]:
    """What the verdicts of a shipped critic depend on."""
    return [kind, json.dumps(manifest_of(kind), sort_keys=True)]
