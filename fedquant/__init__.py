"""fedquant: cheap uplinks for federated learning, in real bytes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fedquant.codecs.base import Spec
    from fedquant.codecs.data import DataSpec
    from fedquant.engines.run import Result, run
    from fedquant.errors import (
        CodecError,
        ConfigError,
        DataError,
        EngineError,
        FedquantError,
        StateError,
    )
    from fedquant.keys import Key
    from fedquant.registry import build, config
else:
    # Imported on first use, so that the command line can tell what is wrong with the kernels.
    _HOME: Final = {
        "CodecError": "errors",
        "ConfigError": "errors",
        "DataError": "errors",
        "DataSpec": "codecs.data",
        "EngineError": "errors",
        "FedquantError": "errors",
        "Key": "keys",
        "Result": "engines.run",
        "Spec": "codecs.base",
        "StateError": "errors",
        "build": "registry",
        "config": "registry",
        "run": "engines.run",
    }

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            return getattr(import_module(f"fedquant.{_HOME[name]}"), name)
        raise AttributeError(f"module 'fedquant' has no attribute {name!r}")


__all__ = [
    "CodecError",
    "ConfigError",
    "DataError",
    "DataSpec",
    "EngineError",
    "FedquantError",
    "Key",
    "Result",
    "Spec",
    "StateError",
    "build",
    "config",
    "run",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
