from __future__ import annotations

import math
import re
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from fedquant import registry
from fedquant.codecs.dataq import DataQ
from fedquant.codecs.floats import Float32
from fedquant.codecs.qsgd import QSGD
from fedquant.errors import ConfigError

ALL = [(kind, name) for kind, known in registry.REGISTRY.items() for name in known]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_name_is_a_frozen_dataclass_of_that_name(kind: registry.Kind, name: str) -> None:
    cls = registry.lookup(kind, name)
    assert cls.name == name
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert name in registry.names(kind)
    assert "name" not in {f.name for f in fields(cls)}


@pytest.mark.parametrize(
    ("kind", "config", "thing"),
    [
        ("codec", "float32", Float32()),
        ("codec", {"name": "qsgd"}, QSGD()),
        ("codec", {"name": "qsgd", "bits": 2, "scope": 64}, QSGD(bits=2, scope=64)),
        ("data_codec", {"name": "dataq", "m": 3, "rounding": "nearest"}, DataQ(3, rounding="nearest")),
    ],
)
def test_create_builds_what_config_describes(kind: registry.Kind, config: Any, thing: Any) -> None:
    assert registry.create(kind, config) == thing
    assert registry.create(kind, registry.config(thing)) == thing
    assert registry.config(thing) == ({"name": config} if isinstance(config, str) else config)


def test_config_leaves_defaults_out() -> None:
    assert registry.config(QSGD(bits=4, norm="max")) == {"name": "qsgd"}


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("codec", "qsdg", "unknown codec 'qsdg': did you mean 'qsgd'?"),
        ("data_codec", "zzz", "unknown data codec 'zzz': known: dataq, raw"),
        ("codec", 3, "codec: expected a name or a mapping with one, got 3"),
        ("codec", {"bits": 3}, "codec: 'name' is missing in {'bits': 3}"),
        ("codec", {"name": "qsgd", "bitz": 3}, "qsgd.bitz: unknown key, did you mean 'bits'?"),
        ("codec", {"name": "float32", "bits": 3}, "float32.bits: unknown key, nothing is known here"),
        (
            "codec",
            {"name": "qsgd", "bits": 99},
            "qsgd.bits: Input should be less than or equal to 16, got 99",
        ),
        ("data_codec", {"name": "dataq", "m": "many"}, "got 'many'"),
        (
            "codec",
            {"name": "qsgd", "scope": 0},
            "qsgd.scope: Input should be 'whole' or 'segment', or greater than or equal to 1, got 0",
        ),
        (
            "controller",
            {"name": "fixed", "bits": 99},
            "fixed.bits: Input should be less than or equal to 16, got 99",
        ),
        (
            "controller",
            {"name": "fixed", "bits": [3, 99]},
            "fixed.bits.1: Input should be less than or equal to 16, got 99",
        ),
        (
            "controller",
            {"name": "dqsgd_convex", "budget": {"byte": 9}},
            "dqsgd_convex.budget.byte: unknown key, did you mean 'bytes'?",
        ),
        ("codec", {"name": "qcs", "gain": math.inf}, "qcs.gain: expected a finite number, got inf"),
        ("codec", {"bits": "3" * 99}, f"{{'bits': '{'3' * 70}…; known: float32, float64"),
        ("data_codec", {"name": "dataq", "rounding": "up"}, "got 'up'"),
        ("selection", {"name": "relative", "factor": 0}, "relative.factor"),
    ],
)
def test_mistakes_are_named(kind: registry.Kind, config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        registry.create(kind, config)
    assert not re.search(r"constrained|literal\[|tuple|keyword|unable to", str(caught.value))
