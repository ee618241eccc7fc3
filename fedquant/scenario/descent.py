"""The uplink of differential quantization: which method descends a convex task, and by which codec."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from fedquant.codecs.base import Codec
from fedquant.codecs.floats import Float64
from fedquant.differential.methods import METHODS
from fedquant.differential.quantizers import RangeCodec
from fedquant.errors import ConfigError, suggest
from fedquant.scenario.section import Section
from fedquant.tasks.convex import ConvexTask

DOWNLINK: Final = {"codec": {"name": "float64"}, "reference": "model"}
UNQUANTIZED: Final = {name for name, (_, feedback) in METHODS.items() if feedback == "exact"}
OPTIMIZER: Final = {"name": "none"}
"""A method sets its own step size."""


class DescentUplink(Section):
    """Each sensor sends the gradient of its share of a convex task, in float64 or quantized in a range.

    method: gd, agd (Nesterov) or hb (heavy ball, quadratics alone); nq- quantizes the gradient as it is, dq-
    differentially. Several sensors: nq-gd keeps a memory for each, and what is not quantized is averaged.
    codec: uniform or ball; none for what is not quantized. total_rate: ΣR_k, bit/coordinate of all sensors
    together, shared out by water-filling on log2 L_k; it replaces the codec's `bits`.
    """

    kind: Literal["descent"]
    method: str
    codec: Codec
    total_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain_floats(cls, given: Any) -> Any:
        """What is not quantized needs no codec in the file."""
        if isinstance(given, dict) and given.get("method") in UNQUANTIZED:
            return {"codec": Float64.name, **given}
        return given

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method not in METHODS:
            raise ConfigError(f"unknown method {method!r}: {suggest(method, METHODS)}")
        return method

    @property
    def quantized(self) -> bool:
        """Whether the method quantizes."""
        return self.method not in UNQUANTIZED

    @model_validator(mode="after")
    def _fitting_codec(self) -> DescentUplink:
        name = self.codec.name
        if not self.quantized:
            if not isinstance(self.codec, Float64):
                raise ConfigError(
                    f"method {self.method} quantizes nothing: instead of codec {name} write float64, or take "
                    f"dq-{self.method}"
                )
        elif not isinstance(self.codec, RangeCodec):
            raise ConfigError(
                f"method {self.method} needs a codec whose error a range bounds, uniform or ball, not {name}"
            )
        elif getattr(self.codec, "range", None) is not None:
            raise ConfigError(f"{name}.range: a descent sets the range itself, round by round; remove it")
        if self.total_rate is not None:
            if self.method != "nq-gd":
                raise ConfigError(f"total_rate is for nq-gd with several sensors, not for {self.method}")
            if getattr(self.codec, "levels", None) is not None:
                raise ConfigError(f"{name}.levels: total_rate sets the bits; remove one of the two")
            if "bits" not in {f.name for f in fields(self.codec)}:
                raise ConfigError(f"total_rate sets a codec's bits, {name} has none")
        return self


def check_descent(task: Any, uplink: Any, downlink: dict[str, Any], training: list[str]) -> None:
    """Raises ConfigError where task, uplink and the rest of a scenario do not go together.

    downlink: its values. training: the keys, but for rounds, that are not as a descent has them.
    """
    if not isinstance(uplink, DescentUplink):
        if isinstance(task, ConvexTask):
            raise ConfigError(f"task {task.name} takes uplink.kind: descent, not {uplink.kind}")
        return
    if not isinstance(task, ConvexTask):
        raise ConfigError(
            "uplink.kind: descent needs a convex task (least_squares, matrix or logistic); "
            f"{task.name} trains a network, with gradient, delta or data"
        )
    momentum, feedback = METHODS[uplink.method]
    if momentum == "heavy_ball" and not task.quadratic:
        other = uplink.method.replace("hb", "agd")
        raise ConfigError(
            f"uplink.method: the ranges of {uplink.method} hold for quadratic tasks alone, {task.name} is "
            f"none; use {other}"
        )
    if task.n_sensors > 1 and feedback == "differential":
        raise ConfigError(
            f"uplink.method: {uplink.method} is for one sensor, this task has {task.n_sensors}; differential "
            "quantization for several is an open problem, use nq-gd"
        )
    if task.n_sensors == 1 and uplink.total_rate is not None:
        raise ConfigError(
            "uplink.total_rate is shared among sensors, this task has one; set the codec's bits"
        )
    if downlink != DOWNLINK:
        raise ConfigError("downlink: a descent broadcasts its iterate as float64; remove it")
    if training:
        raise ConfigError(
            f"training.{training[0]} has no meaning in a descent, which takes exact gradients of all "
            "sensors by steps of its own; remove it"
        )
