"""The torchvision root of the tests: $FEDQUANT_DATA, or the copy beside a checkout, unpacked once."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def data_root() -> Path:
    given = os.environ.get("FEDQUANT_DATA")
    if given:
        return Path(given)
    if not (SHARED / "unpack.py").is_file():
        pytest.skip("no MNIST: set FEDQUANT_DATA to a torchvision root that holds it")
    root = Path(tempfile.gettempdir()) / f"fedquant-test-data-{os.getuid()}"
    subprocess.run([sys.executable, str(SHARED / "unpack.py"), str(root)], check=True)
    return root


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
