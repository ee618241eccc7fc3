"""The Flower app bundle: it carries the apps and scenarios, never the library (which is installed)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_bundle_holds_the_apps_alone(tmp_path: Path) -> None:
    source = tmp_path / "app"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source / name)
    for name in ("strategies", "clients", "scenarios", "fedquant"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    flwr = Path(sys.executable).with_name("flwr")
    done = subprocess.run([flwr, "build", "--app", "app"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (bundle,) = tmp_path.rglob("*.fab")
    names = zipfile.ZipFile(bundle).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"pyproject.toml", "strategies", "clients", "scenarios", ".info"}
    assert {"strategies/app.py", "clients/app.py", "scenarios/wearables.yaml"} <= set(names)
