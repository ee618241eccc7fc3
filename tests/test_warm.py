"""`fedquant warm` leaves nothing to compile."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fedquant import kernels, registry
from fedquant.warm import warm

# Every kernel of the compiled modules that has met no type yet, in a process that did nothing but warm().
LEFT = """
import importlib, pkgutil
from fedquant.kernels import compiled
from fedquant.warm import warm
list(warm())
for info in pkgutil.iter_modules(compiled.__path__):
    module = importlib.import_module(f"{compiled.__name__}.{info.name}")
    for name, thing in vars(module).items():
        cold = getattr(thing, "signatures", None) == [] and thing.targetoptions.get("nogil")
        if cold and thing.__module__ == module.__name__:
            print(f"{info.name}.{name}")
"""


def test_every_codec_is_run() -> None:
    assert set(warm()) == {*registry.names("codec"), *registry.names("data_codec")}


@pytest.mark.skipif(not kernels.COMPILED, reason="numpy kernels are in use")
def test_nothing_is_left_to_compile() -> None:
    done = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
