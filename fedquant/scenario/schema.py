"""The keys of a scenario file, their types and ranges, and the checks between them."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from fedquant import registry
from fedquant.codecs.base import Codec, Spec
from fedquant.codecs.data import DataCodec
from fedquant.codecs.dataq import DataQ
from fedquant.codecs.floats import Float32
from fedquant.codecs.gradcorr import GradCorr
from fedquant.codecs.refine import MAX_LEVELS
from fedquant.codecs.refinement import Refinement
from fedquant.control.base import Controller
from fedquant.errors import ConfigError
from fedquant.explain import finite, not_finite
from fedquant.keys import Key
from fedquant.participation import Participation
from fedquant.scenario.descent import DOWNLINK, OPTIMIZER, DescentUplink, check_descent
from fedquant.scenario.section import Section
from fedquant.selection.base import Selection
from fedquant.selection.rules import All

if TYPE_CHECKING:
    from fedquant.tasks.base import Task
    from fedquant.tasks.convex import ConvexTask


def _bare_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Topology(Section):
    """Which Flower node hosts which sensors: node g hosts g·n … g·n + n − 1."""

    sensors_per_gateway: Annotated[int, Field(ge=1)] = 1


class GradientUplink(Section):
    """Each sensor sends the gradient of one batch.

    control: how fine each round's codec is (a controller), from the rounds before.
    """

    kind: Literal["gradient"]
    codec: Codec
    weighting: Literal["samples", "uniform"] = "samples"
    control: Controller | None = None


class DeltaUplink(Section):
    """Each sensor trains for some local steps of SGD and sends the model's difference (FedAvg)."""

    kind: Literal["delta"]
    codec: Codec
    local_steps: Annotated[int, Field(ge=1)] = 5
    local_lr: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    local_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weighting: Literal["samples", "uniform"] = "samples"
    control: Controller | None = None


class DataUplink(Section):
    """Each sensor sends selected samples; the server computes the gradient on them.

    normalize: divide by the samples drawn ("batch": unsent ones count as zero gradient, the default) or
    by the "sent" ones. cache: a sample travels at most once, and each step also takes `replay` samples
    that the server has kept (default: as many as the sensors of a round draw), divided by their number.
    grad_corr: each payload comes with a bit that corrects the gradient's error without bias; nodes then
    need the model and compute two gradients. For models of some hundred parameters, see `GradCorr`.
    refine: a sample that the server keeps and that is selected again is sent once more, by the difference
    to a grid `factor` times as fine.
    """

    kind: Literal["data"]
    codec: DataCodec
    selection: Selection = All()
    normalize: Literal["batch", "sent"] | None = None
    cache: bool = False
    replay: Annotated[int, Field(ge=1)] | None = None
    grad_corr: GradCorr | None = None
    refine: Refinement | None = None

    @model_validator(mode="after")
    def _cache_or_not(self) -> DataUplink:
        if self.cache and self.normalize == "batch":
            raise ConfigError("normalize: batch has no meaning with cache: true; remove it or write sent")
        if self.replay is not None and not self.cache:
            raise ConfigError("replay needs cache: true, the server keeps no samples without it")
        if self.grad_corr is not None and not isinstance(self.codec, DataQ):
            raise ConfigError(f"grad_corr corrects what dataq lost; codec {self.codec.name} has no levels")
        if self.refine is not None:
            if not self.cache:
                raise ConfigError("refine needs cache: true, the server keeps no samples without it")
            if not isinstance(self.codec, DataQ) or self.codec.rounding != "floor":
                raise ConfigError("refine needs codec dataq with rounding: floor, whose grids are nested")
            m, factor = self.codec.m, self.refine.factor
            if (finer := (m - 1) * factor + 1) > MAX_LEVELS:
                raise ConfigError(
                    f"refine.factor: {factor} makes {finer} levels of m={m}, more than {MAX_LEVELS}; lower "
                    f"codec.m or refine.factor"
                )
        return self


Uplink = Annotated[GradientUplink | DeltaUplink | DataUplink | DescentUplink, Field(discriminator="kind")]


class Downlink(Section):
    """How the model is broadcast: itself, or its difference to what the nodes hold already."""

    codec: Codec = Float32()
    reference: Literal["model", "difference"] = "model"

    @field_validator("codec")
    @classmethod
    def _stateless(cls, codec: Codec) -> Codec:
        if codec.state_spec(Spec(1)):
            raise ConfigError(
                f"{codec.name} remembers what it did not send, a broadcast cannot; use its inner codec with "
                "reference: difference, which sends later what was lost"
            )
        return codec


def _told(value: Any) -> Any:
    """An argument that JSON does not drop; null would become torch's default without a word."""
    if value is None:
        raise ConfigError("expected a value, got null; remove the key for torch's default")
    if not finite(value):
        raise ConfigError(not_finite(value))
    return value


class Optimizer(Section):
    """A class of torch.optim (name: sgd, adam, …), and its arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)

    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_told)]]

    name: str = "sgd"

    @property
    def arguments(self) -> dict[str, Any]:
        """What is handed to the class."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def choice(self) -> tuple[str, dict[str, Any]]:
        """(name, arguments)."""
        return self.name, self.arguments


class Schedule(Optimizer):
    """A class of torch.optim.lr_scheduler (name: StepLR, …), and its arguments; one step a round."""

    name: str


class Training(Section):
    """Rounds, batches and the server's optimizer (default: SGD, lr 0.05, or 1 for deltas).

    participation: where not all sensors take part in a round, they are drawn at random or take turns.
    epoch_rounds: of selection rules, and of sampling: epochs; by default a pass over all sensors and samples.
    checkpoint_every: rounds from one checkpoint to the next, from which a run that was stopped can go on.
    """

    rounds: Annotated[int, Field(ge=1, lt=1 << 22)]
    batch_size: Annotated[int, Field(ge=1)] = 16
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    sensors_per_round: Annotated[int, Field(ge=1)] | None = None
    participation: Literal["random", "turns"] = "random"
    sampling: Literal["random", "epochs", "stream"] = "random"
    epoch_rounds: Annotated[int, Field(ge=1)] | None = None
    optimizer: Annotated[Optimizer, BeforeValidator(_bare_name)]
    schedule: Annotated[Schedule | None, BeforeValidator(_bare_name)] = None
    evaluate_every: Annotated[int, Field(ge=1)] = 10
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1)] = 1
    checkpoint_every: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _one_of(self) -> Training:
        if self.sensors_per_round is not None and self.fraction != 1.0:
            raise ConfigError("give fraction or sensors_per_round, not both")
        return self


class Scenario(Section):
    """One run, completely: who the sensors are, what they learn and how they speak."""

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    seed: Annotated[int, Field(ge=0, lt=1 << 64)] = 0
    topology: Topology = Topology()
    task: Annotated[dict[str, Any], BeforeValidator(_bare_name)]
    uplink: Uplink
    downlink: Downlink = Downlink()
    training: Training
    state_dir: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults_by_uplink(cls, given: Any) -> Any:
        """A mean of model differences is applied whole (FedAvg); gradients need a step size."""
        if not isinstance(given, dict) or not isinstance(given.get("training"), dict):
            return given
        uplink = given.get("uplink")
        kind = uplink.get("kind") if isinstance(uplink, dict) else None
        default: dict[str, Any] = {"name": "sgd", "lr": 1.0 if kind == "delta" else 0.05}
        if kind == "descent":
            given, default = {"downlink": DOWNLINK, **given}, OPTIMIZER
        return {**given, "training": {"optimizer": default, **given["training"]}}

    @field_validator("task")
    @classmethod
    def _task(cls, value: dict[str, Any]) -> dict[str, Any]:
        return registry.resolved(registry.create("task", value))

    @model_validator(mode="after")
    def _descent_or_not(self) -> Scenario:
        training, optimizer = self.training, Optimizer.model_validate(OPTIMIZER)
        every = training.checkpoint_every
        plain = Training(rounds=training.rounds, checkpoint_every=every, optimizer=optimizer)
        given = [k for k in Training.model_fields if getattr(training, k) != getattr(plain, k)]
        check_descent(self.build_task, self.uplink, self.downlink.model_dump(mode="json"), given)
        return self

    @model_validator(mode="after")
    def _enough_sensors(self) -> Scenario:
        wanted, there = self.training.sensors_per_round, self.build_task.n_sensors
        if wanted is not None and wanted > there:
            raise ConfigError(f"training.sensors_per_round: {wanted} exceeds the task's {there} sensors")
        return self

    @model_validator(mode="after")
    def _samples_are_floats(self) -> Scenario:
        task = self.build_task
        if isinstance(self.uplink, DataUplink) and task.dtype is not np.float32:
            raise ConfigError(
                f"uplink.kind: data sends float32 samples, {task.name} has {task.dtype.__name__} (tokens); "
                "use gradient or delta"
            )
        return self

    @cached_property
    def build_task(self) -> Task | ConvexTask:
        """The task that `task` describes."""
        task: Task | ConvexTask = registry.create("task", self.task)
        return task

    def to_json(self) -> str:
        """Canonical JSON of the resolved scenario: sorted keys, no spaces, ASCII."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def to_dict(self) -> dict[str, Any]:
        """The resolved scenario as plain values."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def identity(self) -> dict[str, Any]:
        """The resolved scenario but for what has no effect on results: where and when state is kept."""
        values = self.to_dict()
        values.pop("state_dir", None)
        values["training"].pop("checkpoint_every", None)
        return values

    @cached_property
    def run_id(self) -> int:
        """64 bits of SHA-256 over `identity`."""
        text = json.dumps(self.identity, sort_keys=True, separators=(",", ":"))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")

    @property
    def key(self) -> Key:
        """The root key of the run."""
        return Key(self.seed, self.run_id)

    @property
    def sensors(self) -> int:
        """How many sensors there are."""
        return self.build_task.n_sensors

    @cached_property
    def participation(self) -> Participation:
        """Which sensors take part in which round."""
        training, n = self.training, self.sensors
        per_round = training.sensors_per_round or max(1, round(training.fraction * n))
        return Participation(training.participation, n, per_round)

    @property
    def gateways(self) -> int:
        """How many Flower nodes host them."""
        return -(-self.sensors // self.topology.sensors_per_gateway)
