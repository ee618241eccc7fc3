"""A temporary folder and the processes of one run, none of which outlives it.

Flower and Ray detach processes into sessions of their own, and some lose their parent. So every
process started here carries the run's token in its environment; its descendants inherit the token,
and by it they are found again.
"""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from fedquant.errors import EngineError

_TOKEN: Final = "FEDQUANT_RUN_TOKEN"
_GRACE: Final = 3.0  # seconds between asking processes to end and killing them
_LONGEST_BASE: Final = 24  # bytes: with Ray's part a socket's path has 103, all that macOS allows


@dataclass(frozen=True)
class Sandbox:
    """A folder, and the processes started in it."""

    home: Path
    token: str
    children: list[subprocess.Popen[str]] = field(default_factory=list)
    readers: list[threading.Thread] = field(default_factory=list)

    def start(
        self,
        *command: str,
        env: Mapping[str, str],
        stdout: int | IO[str] = subprocess.PIPE,
        stderr: int = subprocess.STDOUT,
    ) -> subprocess.Popen[str]:
        """Start a command in the folder, in a session of its own."""
        child = subprocess.Popen(
            command,
            cwd=self.home,
            # SPT_NOENV: else Ray's process titles overwrite the environment that others can read.
            env={**env, _TOKEN: self.token, "SPT_NOENV": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # a terminal's Ctrl-C is ours to handle, not the child's
        )
        self.children.append(child)
        return child

    def lines(self, child: subprocess.Popen[str]) -> queue.SimpleQueue[str | None]:
        """The lines a child writes, as they come; None after the last."""
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        def read() -> None:
            assert child.stdout is not None
            with child.stdout as stream:
                for line in stream:
                    lines.put(line.rstrip())
            lines.put(None)

        self.readers.append(threading.Thread(target=read, daemon=True))
        self.readers[-1].start()
        return lines

    def living(self) -> set[int]:
        """The ids of all processes that descend from those started here, and of these."""
        find = _living_in_proc if sys.platform == "linux" else _living_in_ps
        children = {child.pid for child in self.children if child.poll() is None}
        return children.union(find(f"{_TOKEN}={self.token}"))


@contextmanager
def sandbox() -> Iterator[Sandbox]:
    """A fresh sandbox; on the way out, whatever the reason, its processes end and its folder goes.

    Raises EngineError where a process cannot be ended, and on Windows.
    """
    if os.name != "posix":
        raise EngineError(f"simulations on Ray need Linux or macOS, not {sys.platform}")
    base = tempfile.gettempdir()
    base = base if len(os.fsencode(base)) <= _LONGEST_BASE else "/tmp"
    box = Sandbox(Path(tempfile.mkdtemp(prefix="fq", dir=base)), uuid.uuid4().hex)
    try:
        yield box
    finally:
        _close(box)


def _close(box: Sandbox) -> None:
    try:
        _end_all(box, _GRACE)
    except KeyboardInterrupt:  # the second: no more patience, but still nothing left behind
        _end_all(box, 0.0)
        _reap(box)
        raise
    else:
        _reap(box)
    finally:
        shutil.rmtree(box.home, ignore_errors=True)


def _reap(box: Sandbox) -> None:
    """Release what this process holds of children that have ended."""
    for child in box.children:
        child.wait()
    for reader in box.readers:
        reader.join(_GRACE)


def _end_all(box: Sandbox, grace: float) -> None:
    """Ask every process of a sandbox to end; kill what is left after `grace` seconds."""
    start = time.monotonic()
    asked: set[int] = set()
    while pids := box.living():
        waited = time.monotonic() - start
        if waited > grace + _GRACE:
            raise EngineError(f"processes {sorted(pids)} of this run do not end; end them by hand")
        for pid in pids:
            with suppress(ProcessLookupError):  # it ended by itself meanwhile
                if waited >= grace:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in asked:
                    os.kill(pid, signal.SIGTERM)
        asked.update(pids)
        time.sleep(0.05)


def _living_in_proc(entry: str) -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it ended meanwhile, or is another user's
                if entry.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    yield int(folder.name)


def _living_in_ps(entry: str) -> Iterator[int]:
    command = ["ps", "-A", "-E", "-ww", "-o", "pid=,command="]  # macOS: -E adds the environment
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for words in map(str.split, listing.splitlines()):
        if entry in words:
            yield int(words[0])
