"""Processes of a comparison, some at once, all ended together. No torch here."""

import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).resolve().parent.parent
STOPPED = (130, 143, -2, -15)
"""Exit statuses of a process that Ctrl-C or SIGTERM ended."""

T = TypeVar("T")


class Workers:
    """Does tasks `jobs` at a time; the processes that they start end when the first task raises.

    Args:
        jobs: tasks at once, >= 1.
        keep: descriptors that the processes inherit: a lock that they hold on to even where this
            process is killed, so that no other sitting touches their runs.
    """

    def __init__(self, jobs: int = 1, *, keep: Sequence[int] = ()) -> None:
        if jobs < 1:
            raise ValueError(f"--jobs is {jobs}, must be >= 1")
        self.jobs, self.keep = jobs, tuple(keep)
        self._going: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, command: Sequence[str], log: Path) -> int:
        """Run a process with its output appended to `log`; returns its exit status.

        One that would start after `all` was left by an exception does not; its status is 130.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH", ""))))
        with log.open("ab") as out:
            with self._lock:
                if self._closed:
                    return STOPPED[0]
                process = subprocess.Popen(
                    list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                    env=os.environ | {"PYTHONPATH": path}, pass_fds=self.keep,
                )  # fmt: skip
                self._going.add(process)
            try:
                return process.wait()
            finally:
                self._going.discard(process)

    def all(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """What every task returns, in their order.

        Raises:
            KeyboardInterrupt: Ctrl-C. The terminal told the processes too, so they are waited for:
                a run saves itself at the end of its update.
            BaseException: what a task or a signal raised; the processes were terminated.
        """
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(task) for task in tasks]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException as error:
                with self._lock:
                    self._closed = True
                for future in futures:
                    future.cancel()
                if not isinstance(error, KeyboardInterrupt):
                    for process in list(self._going):
                        process.terminate()
                raise
        return [future.result() for future in futures]
