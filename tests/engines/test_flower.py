"""The Flower engine, with stand-ins for Flower's commands."""

from __future__ import annotations

import itertools
import json
import os
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedquant.engines import sandbox
from fedquant.engines.flower import run_app
from fedquant.errors import EngineError
from tests.engines.test_sandbox import alive

# Both stand-ins do as the JSON in the variable FAKE says, and note what they saw in its "dir".
SUPERLINK = """
import json, os, subprocess, sys, time
fake = json.loads(os.environ["FAKE"])
ports = open(fake["dir"] + "/ports", "a+")
ports.write(sys.argv[-1] + "\\n")
ports.seek(0)
if len(ports.readlines()) <= fake.get("ports_taken", 0):
    sys.exit("[Errno 98] error while attempting to bind: address already in use")
if "superlink_says" in fake:
    sys.exit(fake["superlink_says"])
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
orphan = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True)
open(fake["dir"] + "/pids", "w").write(f"{os.getpid()} {orphan.pid}")
print("INFO [uvicorn.error] Uvicorn running on http://127.0.0.1:1", flush=True)
time.sleep(600)
"""
FLWR = """
import json, os, sys, time
fake = json.loads(os.environ["FAKE"])
if sys.argv[1] == "ls":
    print("a warning", file=sys.stderr)
    print(fake.get("ls") or json.dumps({"success": True, "runs": [fake["run"]]}))
    sys.exit()
home = os.environ["FLWR_HOME"]
overrides = home + "/overrides.toml"
seen = {
    "argv": sys.argv[1:],
    "cwd": os.getcwd(),
    "env": dict(os.environ),
    "config": open(home + "/config.toml").read(),
    "overrides": open(overrides).read() if os.path.exists(overrides) else None,
}
json.dump(seen, open(fake["dir"] + "/seen", "w"))
for line in fake["lines"]:
    print(line, flush=True)
time.sleep(fake.get("silence", 0))
sys.exit(fake.get("exit", 0))
"""
COMPLETED = {"status": "finished:completed", "status-details": "N/A"}


@pytest.fixture
def bin_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands that stands beside the Python in use."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("flwr", FLWR), ("flower-superlink", SUPERLINK)):
        write_command(folder / name, text)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    return folder


def write_command(path: Path, text: str) -> None:
    path.write_text(f"#!{sys.executable} -IS\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class Fake:
    """Runs an app with stand-ins that behave as the keyword arguments say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        on_line: Callable[[str], None] = print,
        stall_timeout: float = 60.0,
        options: dict[str, Any] | None = None,
        env: dict[str, str] | None = None,
        **behaviour: Any,
    ) -> None:
        told = {"dir": str(self.folder), "lines": [], "run": COMPLETED, **behaviour}
        run_app(
            self.folder,
            **{"run_config": {}, "nodes": 3, **(options or {})},
            env={"FAKE": json.dumps(told), **(env or {})},
            on_line=on_line,
            stall_timeout=stall_timeout,
        )

    @property
    def seen(self) -> dict[str, Any]:
        seen: dict[str, Any] = json.loads((self.folder / "seen").read_text())
        return seen

    @property
    def ports(self) -> list[str]:
        return (self.folder / "ports").read_text().split()

    def assert_nothing_left(self) -> None:
        pids = [int(pid) for pid in (self.folder / "pids").read_text().split()]
        assert len(pids) == 2
        assert not [pid for pid in pids if alive(pid)]
        assert not Path(self.seen["env"]["FLWR_HOME"]).exists()


@pytest.fixture
def fake(tmp_path: Path, bin_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setattr(sandbox, "_GRACE", 0.3)  # the orphan is deaf to SIGTERM
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return Fake(tmp_path)


# What Flower is told


def test_lines_arrive_in_order_without_colours(fake: Fake) -> None:
    lines: list[str] = []
    fake(lines.append, lines=["\x1b[92mINFO \x1b[0m:  [ROUND 1/2]", "├── Δ", ""])
    assert lines == ["INFO :  [ROUND 1/2]", "├── Δ", ""]
    fake.assert_nothing_left()


def test_lines_arrive_while_the_run_goes_on(fake: Fake) -> None:
    def stop(line: str) -> None:
        raise LookupError(line)

    with pytest.raises(LookupError, match="first"):
        fake(stop, lines=["first"], silence=600)
    fake.assert_nothing_left()


def test_the_run_is_isolated(fake: Fake) -> None:
    fake()
    env, argv = fake.seen["env"], fake.seen["argv"]
    assert fake.seen["cwd"] == env["FLWR_HOME"] == env["RAY_TMPDIR"]
    assert argv == ["run", str(fake.folder), "--stream", "--federation-config", argv[4]]
    assert argv[4] == "num-supernodes=3 client-resources-num-cpus=1"
    superlink = tomllib.loads(fake.seen["config"])["superlink"]
    assert superlink[superlink["default"]] == {
        "address": f"127.0.0.1:{fake.ports[-1]}",
        "insecure": True,
    }
    assert env["RAY_ADDRESS"] == "local"
    assert env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert env["FLWR_TELEMETRY_ENABLED"] == "0"
    assert env["PATH"].split(os.pathsep)[0] == str(fake.folder / "bin")
    assert env.get("OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS")


def test_two_runs_share_no_folder_and_no_port(fake: Fake) -> None:
    fake()
    first = fake.seen["env"]["FLWR_HOME"]
    fake()
    assert fake.seen["env"]["FLWR_HOME"] != first
    assert len(set(fake.ports)) == 2


def test_run_config_and_cpus_reach_flower(fake: Fake) -> None:
    config = {
        "scenario": '{"a": "\\" \\\\ é 😀 \x7f\n"}' * 500,
        "rounds": 3,
        "rate": 1e-05,
        "on": True,
    }
    fake(options={"run_config": config, "cpus_per_client": 2.0, "total_cpus": 4})
    argv = fake.seen["argv"]
    assert "num-supernodes=3 client-resources-num-cpus=2 init-args-num-cpus=4" in argv
    assert argv[argv.index("--run-config") + 1].endswith(".toml")
    assert tomllib.loads(fake.seen["overrides"]) == config


def test_the_callers_environment_wins_but_for_isolation(fake: Fake) -> None:
    fake(
        env={
            "OMP_NUM_THREADS": "7",
            "RAY_ADDRESS": "cluster:6379",
            "FLWR_HOME": "/elsewhere",
            "FLWR_LOG_LEVEL": "error",
        }
    )
    env = fake.seen["env"]
    assert (env["OMP_NUM_THREADS"], env["RAY_ADDRESS"]) == ("7", "cluster:6379")
    assert env["FLWR_HOME"] != "/elsewhere"
    assert env["FLWR_LOG_LEVEL"] == "INFO"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "nodes=0"),
        ({"cpus_per_client": 0.5}, "cpus_per_client=0.5: Flower takes whole CPUs"),
        ({"cpus_per_client": 0}, "cpus_per_client=0"),
        ({"cpus_per_client": 3, "total_cpus": 2}, "total_cpus=2 is less than cpus_per_client=3"),
    ],
)
def test_impossible_resources(fake: Fake, options: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        fake(options=options)


def test_total_cpus_are_refused_on_an_existing_cluster(fake: Fake) -> None:
    with pytest.raises(EngineError, match="total_cpus=2 with RAY_ADDRESS=cluster:6379"):
        fake(options={"total_cpus": 2}, env={"RAY_ADDRESS": "cluster:6379"})


# How runs end


def test_a_failed_run_is_an_error_though_flwr_exits_0(fake: Fake) -> None:
    failed = {"status": "finished:failed", "status-details": "broken on purpose"}
    lines = [f"line {i}" for i in range(30)]
    with pytest.raises(EngineError, match="'finished:failed': broken on purpose") as caught:
        fake(lines=lines, run=failed)
    assert str(caught.value).splitlines()[1:] == [f"  {line}" for line in lines[-20:]]
    fake.assert_nothing_left()


def test_flwr_run_exiting_with_an_error_is_one(fake: Fake) -> None:
    with pytest.raises(EngineError, match=r"status 3(?s:.*)no such app(?s:.*)Uvicorn"):
        fake(lines=["no such app"], exit=3)
    fake.assert_nothing_left()


@pytest.mark.parametrize("answer", ["Killed", "null", "{}", '{"success": true, "runs": []}'])
def test_an_unknown_outcome_is_an_error(fake: Fake, answer: str) -> None:
    with pytest.raises(EngineError, match="does not tell how the run ended"):
        fake(ls=answer)


def test_a_stalled_run_is_ended(fake: Fake) -> None:
    with pytest.raises(EngineError, match=r"no log line in 1 s(?s:.*)stall_timeout(?s:.*)  begun"):
        fake(lines=["begun"], silence=600, stall_timeout=1.0)
    fake.assert_nothing_left()


def test_ctrl_c_ends_everything(fake: Fake) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fake(interrupt, lines=["begun"], silence=600)
    fake.assert_nothing_left()


def test_a_second_ctrl_c_leaves_nothing_either(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    living, looks = sandbox.Sandbox.living, itertools.count(1)

    def interrupted(box: sandbox.Sandbox) -> set[int]:
        if next(looks) == 2:
            raise KeyboardInterrupt
        return living(box)

    monkeypatch.setattr(sandbox.Sandbox, "living", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fake(lines=["begun"])
    fake.assert_nothing_left()


def test_other_runs_processes_are_left_alone(fake: Fake) -> None:
    with sandbox.sandbox() as other:
        bystander = other.start("sleep", "600", env=os.environ, stdout=subprocess.DEVNULL)
        fake()
        assert bystander.poll() is None
    assert bystander.poll() is not None


# How runs start


def test_a_port_taken_meanwhile_is_replaced(fake: Fake) -> None:
    fake(ports_taken=2)
    assert len(set(fake.ports)) == 3
    assert fake.ports[-1] in fake.seen["config"]


def test_a_superlink_that_cannot_start_tells_why(fake: Fake) -> None:
    with pytest.raises(EngineError, match=r"SuperLink ended with status 1(?s:.*)no database"):
        fake(superlink_says="no database")
    assert len(fake.ports) == 1


def test_a_missing_flower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"'flower-superlink' not found; .*pip install"):
        run_app(tmp_path, run_config={}, nodes=2)
