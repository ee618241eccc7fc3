"""What a measurement was made on, and when."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from fedquant import kernels

PACKAGES: Final = (
    "fedquant",
    "numpy",
    "numba",
    "torch",
    "bitsandbytes",
    "hivemind",
    "openfl",
    "zstandard",
    "constriction",
)


@dataclass(frozen=True)
class Machine:
    """load: processes that wanted a core, mean of the last minute, before and after the measurement."""

    cpu: str
    cores: int
    memory_gb: float | None
    system: str
    python: str
    kernels: str
    versions: dict[str, str]
    date: str
    load: tuple[float, ...]


def describe(load_before: float | None) -> Machine:
    """This machine now."""
    after = load()
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        memory_gb=_memory(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        kernels="numba" if kernels.COMPILED else "numpy",
        versions=_versions(),
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        load=tuple(round(value, 2) for value in (load_before, after) if value is not None),
    )


def load() -> float | None:
    """The load average of the last minute; None where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)  # of the first core
    found = {key.strip(): value.strip() for key, value in fields.items()}
    name = found.get("model name") or found.get("Model") or platform.processor() or platform.machine()
    family, model = found.get("cpu family"), found.get("model")
    return f"{name}, family {family}, model {model}" if family and model else name


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
