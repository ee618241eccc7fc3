"""What `import fedquant` gives."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fedquant
from fedquant.engines.run import run
from fedquant.errors import ConfigError


def test_all_public_names_are_there() -> None:
    assert fedquant.run is run
    assert fedquant.ConfigError is ConfigError
    for name in fedquant.__all__:
        assert getattr(fedquant, name).__name__ == name
        assert name in dir(fedquant)
    with pytest.raises(AttributeError, match="module 'fedquant' has no attribute 'rum'"):
        _ = fedquant.rum


def test_the_package_alone_imports_nothing() -> None:
    """So that the command line starts whatever the settings of kernels are."""
    script = "import sys, fedquant.cli; print('fedquant.kernels' in sys.modules, 'numpy' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == "False False\n"
