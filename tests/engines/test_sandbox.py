from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedquant.engines import sandbox


def alive(pid: int) -> bool:
    listing = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return listing.stdout.strip() != "" and not listing.stdout.startswith("Z")


def test_rays_sockets_get_a_short_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    socket = "ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
    with sandbox.sandbox() as box:
        assert len(os.fsencode(box.home / socket)) <= 103


def test_processes_are_found_by_ps_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = "  12 sleep 9 A=1 KEY=abc B=2\n  13 x KEY=abcd\n 14 x XKEY=abc\n 15 x KEY=abc\n"
    (tmp_path / "ps").write_text(f"#!/bin/sh\ncat <<'END'\n{listing}END\n")
    (tmp_path / "ps").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert list(sandbox._living_in_ps("KEY=abc")) == [12, 15]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `sim`")
def test_processes_that_ray_gave_a_title_are_found() -> None:
    code = "import os, time; from ray._raylet import setproctitle; setproctitle('t' * 9999)"
    with sandbox.sandbox() as box:
        code += "; print(os.getpid(), flush=True); time.sleep(600)"
        shell = ("/bin/sh", "-c", '"$0" -c "$1" & wait', sys.executable, code)
        worker = int(box.lines(box.start(*shell, env=os.environ)).get(timeout=60) or 0)
        assert worker in box.living()
    assert not alive(worker)
