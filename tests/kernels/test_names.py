from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest

from fedquant import kernels

MODULES = [name for name in kernels.__all__ if isinstance(getattr(kernels, name), ModuleType)]
HELPERS = {"hadamard": {"round_up"}, "pack": {"digits_per_step"}}  # of the reference alone


@pytest.mark.parametrize("name", MODULES)
def test_the_compiled_module_has_every_public_function(name: str) -> None:
    reference = import_module(f"fedquant.kernels.reference.{name}")
    compiled = import_module(f"fedquant.kernels.compiled.{name}")
    functions = {
        key
        for key, value in vars(reference).items()
        if callable(value) and getattr(value, "__module__", "") == reference.__name__ and key[0] != "_"
    }
    assert functions
    assert functions - HELPERS.get(name, set()) <= set(vars(compiled))
