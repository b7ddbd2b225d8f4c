import json
import multiprocessing
import os
import shutil
import signal
import time

import pytest
import torch

from training import checkpoint
from training.checkpoint import (
    CheckpointError,
    checkpoints,
    load_checkpoint,
    prune,
    save_checkpoint,
)


def save(root, step, *, adapter=b"adapter", tensors=None, state=None):
    def save_adapter(folder):
        folder.mkdir()
        (folder / "weights").write_bytes(adapter)

    return save_checkpoint(
        root,
        step,
        save_adapter=save_adapter,
        tensors={"moment": torch.arange(4.0) * step} if tensors is None else tensors,
        state={"step": step} if state is None else state,
    )


def test_what_is_saved_comes_back(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.randn(2, 3).T}
    state = {"best_step": 3, "scores": [1.5, None], "nested": {"seed": 2**70}}
    folder = save(tmp_path, 12, tensors=tensors, state=state)
    back = load_checkpoint(folder)
    assert back.step == 12
    assert back.state == state
    assert all(torch.equal(back.tensors[n], t) for n, t in tensors.items())
    assert (back.folder / "adapter" / "weights").read_bytes() == b"adapter"


def test_oldest_comes_first_and_scratch_does_not_count(tmp_path):
    for step in (10, 9, 100):
        save(tmp_path, step)
    (tmp_path / ".writing-000101").mkdir()
    (tmp_path / "step-000102").mkdir()  # no state in it
    assert [f.name for f in checkpoints(tmp_path)] == ["step-000009", "step-000010", "step-000100"]
    assert checkpoints(tmp_path / "nowhere") == []


@pytest.mark.parametrize("part", ["_sync", "os.replace"])
def test_failure_while_writing_leaves_the_old_one_whole(tmp_path, monkeypatch, part):
    save(tmp_path, 1)

    def fail(*_):
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(f"training.checkpoint.{part}", fail)
        with pytest.raises(OSError, match="no space"):
            save(tmp_path, 2)
    assert [f.name for f in checkpoints(tmp_path)] == ["step-000001"]
    assert load_checkpoint(checkpoints(tmp_path)[-1]).state == {"step": 1}
    save(tmp_path, 2)  # and the leftovers are in nobody's way
    assert load_checkpoint(checkpoints(tmp_path)[-1]).state == {"step": 2}


def _keep_saving(root):
    for step in range(1, 10_000):
        save(root, step, adapter=os.urandom(50_000), tensors={"moment": torch.full((9_000,), step)})
        checkpoint.prune(root, keep={1})


def test_killed_while_writing_leaves_whole_checkpoints_only(tmp_path):
    context = multiprocessing.get_context("fork")
    for life in range(5):
        child = context.Process(target=_keep_saving, args=(tmp_path,))
        child.start()
        time.sleep(0.15 + 0.037 * life)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        found = checkpoints(tmp_path)
        assert found
        newest = load_checkpoint(found[-1])
        assert newest.state == {"step": newest.step}
        assert torch.equal(newest.tensors["moment"], torch.full((9_000,), newest.step))
        assert (newest.folder / "adapter" / "weights").stat().st_size == 50_000
        shutil.rmtree(tmp_path)


@pytest.mark.parametrize("file", ["trainer.safetensors", "state.json"])
def test_truncated_checkpoint_is_refused(tmp_path, file):
    folder = save(tmp_path, 3)
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="step-000003 cannot be read"):
        load_checkpoint(folder)


def test_missing_parts_are_refused(tmp_path):
    folder = save(tmp_path, 3)
    (folder / "trainer.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(folder)
    (folder / "state.json").unlink()
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        load_checkpoint(folder)


def test_nothing_that_is_pickled_is_written(tmp_path):
    folder = save(tmp_path, 1)
    assert json.loads((folder / "state.json").read_text())
    assert {f.suffix for f in folder.iterdir() if f.is_file()} == {".safetensors", ".json"}


def test_newest_two_and_the_best_are_kept(tmp_path):
    for step in range(6):
        save(tmp_path, step)
        prune(tmp_path, keep={1})
    (tmp_path / ".writing-000009").mkdir()
    prune(tmp_path, keep={1})
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "step-000001",
        "step-000004",
        "step-000005",
    ]
