"""A SuperLink for one run: started on a port of its own, asked how the run ended."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fedquant.engines.sandbox import Sandbox
from fedquant.errors import EngineError

_STARTUP: Final = 120.0  # seconds a SuperLink may take to listen; 1.3 measured on an idle machine
_ANSWER: Final = 120.0  # seconds it may take to answer; 0.8 measured
_TRIES: Final = 3  # another program may take a port between our choice and its use


def executable(name: str) -> str:
    """The path of one of Flower's commands, of this Python's environment if it has one.

    Raises EngineError where there is none.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise EngineError(f"command {name!r} not found; run: pip install 'fedquant[sim]'")
    return found


def start_superlink(box: Sandbox, env: Mapping[str, str]) -> Path:
    """Start a SuperLink for simulations, the default one of `env`'s FLWR_HOME; returns its log.

    Raises EngineError where it ends or does not listen in time.
    """
    log = box.home / "superlink.log"
    for _ in range(_TRIES):
        port = _free_port()
        command = [executable("flower-superlink"), "--insecure", "--simulation"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        with log.open("w", encoding="utf-8") as sink:
            process = box.start(*command, env=env, stdout=sink)
        deadline = time.monotonic() + _STARTUP
        while process.poll() is None and time.monotonic() < deadline:
            # Its own word that it listens: a health check could reach another run's on this port.
            if "Uvicorn running" in log.read_text("utf-8", "replace"):
                connection = f'address = "127.0.0.1:{port}"\ninsecure = true\n'
                config = f'[superlink]\ndefault = "local"\n[superlink.local]\n{connection}'
                Path(env["FLWR_HOME"], "config.toml").write_text(config, "utf-8")
                return log
            time.sleep(0.05)
        text = log.read_text("utf-8", "replace")
        if "address already in use" not in text:
            break
    ended = f"ended with status {process.returncode}" if process.returncode else "does not listen"
    raise EngineError(f"Flower's SuperLink {ended}; its log:\n{text[-2000:]}")


def run_status(box: Sandbox, env: Mapping[str, str]) -> tuple[str, str]:
    """The status and details of the one run, like ("finished:completed", "N/A").

    Raises EngineError where the SuperLink does not tell.
    """
    command = (executable("flwr"), "ls", "--format", "json")
    process = box.start(*command, env=env, stderr=subprocess.DEVNULL)
    try:
        text, _ = process.communicate(timeout=_ANSWER)
        run = json.loads(text)["runs"][0]
        return run["status"], run["status-details"]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise EngineError(f"`flwr ls` gave no answer in {_ANSWER:g} s") from None
    except (ValueError, LookupError, TypeError):
        raise EngineError(f"`flwr ls` does not tell how the run ended; it says:\n{text}") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
