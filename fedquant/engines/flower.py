"""Runs a Flower app with `flwr run` on Ray, in isolation, with a true outcome.

`flwr run` by itself shares one background SuperLink among all runs of a user, leaves it running,
and exits 0 when a run failed. Here a run has a SuperLink, a FLWR_HOME and a Ray of its own.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import re
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import tomli_w

from fedquant.engines.sandbox import sandbox
from fedquant.engines.superlink import executable, run_status, start_superlink
from fedquant.errors import EngineError

RunConfig = Mapping[str, str | int | float | bool]

_PACKAGES: Final = ("strategies", "clients")
_ANSI: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SHOWN: Final = 20  # log lines that an error shows


def make_app(dest: Path, run_config: RunConfig) -> Path:
    """Write fedquant's Flower app (strategies, clients and a run config) into the folder `dest`.

    Raises EngineError where a package is not installed.
    """
    dest.mkdir(parents=True, exist_ok=True)
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.submodule_search_locations is None:
            raise EngineError(f"package {package!r} is not installed; run: pip install fedquant")
        for root in map(Path, spec.submodule_search_locations):
            for source in root.rglob("*.py"):
                target = dest / package / source.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
    project = {
        "name": "fedquant-app",
        "version": "0.0.0",  # Flower tells apps apart by their content
        "description": "One fedquant run",
        "license": "Apache-2.0",
        "dependencies": [],
    }
    app = {
        "publisher": "fedquant",
        "components": {"serverapp": "strategies.app:app", "clientapp": "clients.app:app"},
        "config": dict(run_config),
    }
    text = tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}})
    (dest / "pyproject.toml").write_text(text, "utf-8")
    return dest


def run_app(
    app_dir: Path,
    *,
    run_config: RunConfig,
    nodes: int,
    cpus_per_client: float = 1,
    total_cpus: int | None = None,
    env: Mapping[str, str] = {},
    on_line: Callable[[str], None] = print,
    stall_timeout: float = 300.0,
) -> None:
    """Run the Flower app in `app_dir` on `nodes` simulated SuperNodes, until it ends.

    `run_config` overrides keys that the app's own config has. `env` is added to the environment of
    Flower, Ray and the app. A RAY_ADDRESS in either environment names a Ray cluster to use; without
    one the run starts its own, with `total_cpus`. A run of which no log line comes for
    `stall_timeout` seconds is ended.

    Raises EngineError where the run cannot start, stalls or fails.
    """
    ray_address = env.get("RAY_ADDRESS") or os.environ.get("RAY_ADDRESS") or "local"
    federation = _federation(nodes, cpus_per_client, total_cpus, ray_address)
    with sandbox() as box:
        settings = _settings(env, box.home, ray_address)
        log = start_superlink(box, settings)
        command = [executable("flwr"), "run", str(app_dir.resolve()), "--stream"]
        command += ["--federation-config", federation]
        if run_config:
            overrides = box.home / "overrides.toml"
            overrides.write_text(tomli_w.dumps(dict(run_config)), "utf-8")
            command += ["--run-config", str(overrides)]
        flwr = box.start(*command, env=settings)
        last = _follow(box.lines(flwr), on_line, stall_timeout)
        if flwr.wait() != 0:
            reasons = log.read_text("utf-8", "replace").splitlines()[-_SHOWN:]
            raise EngineError(
                f"`flwr run` failed with status {flwr.returncode}{_shown(last)}\n"
                f"and of its SuperLink's:\n{_indented(reasons)}"
            )
        status, details = run_status(box, settings)
        if status != "finished:completed":
            raise EngineError(f"the Flower run ended as {status!r}: {details}{_shown(last)}")


def _federation(nodes: int, cpus: float, total: int | None, ray_address: str) -> str:
    """The value of --federation-config; checked here, for Flower takes 0 nodes and fails late."""
    if nodes < 1:
        raise EngineError(f"nodes={nodes}: a simulation needs at least 1 node")
    if cpus < 1 or cpus != int(cpus):
        raise EngineError(f"cpus_per_client={cpus}: Flower takes whole CPUs, at least 1")
    options = f"num-supernodes={nodes} client-resources-num-cpus={int(cpus)}"
    if total is None:
        return options
    if ray_address != "local":
        raise EngineError(
            f"total_cpus={total} with RAY_ADDRESS={ray_address}: that Ray cluster has its CPUs; "
            "leave out one of the two"
        )
    if total < cpus:
        raise EngineError(f"total_cpus={total} is less than cpus_per_client={int(cpus)}; raise it")
    return f"{options} init-args-num-cpus={total}"


def _settings(env: Mapping[str, str], home: Path, ray_address: str) -> dict[str, str]:
    """The environment of a run: the user's, then our defaults, then `env`, then isolation."""
    outer = os.environ
    level = env.get("FLWR_LOG_LEVEL", outer.get("FLWR_LOG_LEVEL", "")).upper()
    direct = ",".join(filter(None, [outer.get("no_proxy") or outer.get("NO_PROXY"), "127.0.0.1"]))
    search = [str(Path(sys.executable).parent), outer.get("PATH", os.defpath)]
    return {
        **outer,
        "PATH": os.pathsep.join(search),  # Flower starts its parts by name
        "no_proxy": direct,
        "NO_PROXY": direct,
        "PYTHONIOENCODING": "utf-8",
        "PYTHONUNBUFFERED": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",  # else a `uv sync` in each run
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(home),
        **env,
        "RAY_ADDRESS": ray_address,
        "FLWR_HOME": str(home),
        # A quieter level would hide that the SuperLink listens and that the run is alive.
        "FLWR_LOG_LEVEL": level if level == "DEBUG" else "INFO",
    }


def _follow(
    lines: queue.SimpleQueue[str | None], on_line: Callable[[str], None], stall_timeout: float
) -> deque[str]:
    """Hand on each line as it comes, without colours; returns the last ones.

    Raises EngineError where none comes for `stall_timeout` seconds.
    """
    last: deque[str] = deque(maxlen=_SHOWN)
    while True:
        try:
            line = lines.get(timeout=stall_timeout)
        except queue.Empty:
            raise EngineError(
                f"no log line in {stall_timeout:g} s, so the Flower run was ended; if a round may "
                "take that long, raise stall_timeout; else see that enough CPUs are free for a "
                f"client and enough nodes for a round{_shown(last)}"
            ) from None
        if line is None:
            return last
        line = _ANSI.sub("", line)
        last.append(line)
        on_line(line)


def _shown(lines: Iterable[str]) -> str:
    return f"; the last lines of its log:\n{_indented(lines)}"


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"  {_ANSI.sub('', line)}" for line in lines)
