"""fedquant: cheap uplinks for federated learning, in real bytes."""

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
