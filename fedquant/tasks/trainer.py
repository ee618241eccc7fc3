"""The server's side of learning: a model, its optimizer and schedule."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from fedquant.checkpoint import State
from fedquant.errors import ConfigError, suggest
from fedquant.tasks import learn
from fedquant.tasks.base import Dataset, Task

F32 = npt.NDArray[np.float32]
Choice = tuple[str, Mapping[str, Any]]
"""The name of a class of torch, and its arguments."""

_OPTIMIZER: Final = "training.optimizer"
_SCHEDULE: Final = "training.schedule"
_CODE: Final = "a scenario cannot write the functions or objects it takes"
_UNFIT: Final = {
    "lbfgs": "its step computes the loss several times over",
    "sparseadam": "it takes sparse gradients only",
    "lambdalr": _CODE,
    "multiplicativelr": _CODE,
    "sequentiallr": _CODE,
    "chainedscheduler": _CODE,
    "reducelronplateau": "it wants a loss at every step",
}


def pick_device(name: str) -> torch.device:
    """auto: CUDA where there is some. Raises ConfigError for a CUDA that is not there."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError("training.device: cuda, but torch finds no CUDA device; use auto or cpu")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def _class(module: Any, base: type, key: str, name: str) -> type:
    found = {
        n.lower(): c
        for n, c in vars(module).items()
        if inspect.isclass(c) and issubclass(c, base) and c is not base and not n.startswith("_")
    }
    found = {n: c for n, c in found.items() if n not in _UNFIT}
    if why := _UNFIT.get(name.lower()):
        raise ConfigError(
            f"{key}.name: {name} cannot be used here, {why}; use one of {', '.join(sorted(found))}"
        )
    try:
        chosen: type = found[name.lower()]
    except KeyError:
        raise ConfigError(
            f"{key}.name: {name!r} is not in {module.__name__}, {suggest(name, found)}"
        ) from None
    return chosen


def _build(cls: type, key: str, first: Any, arguments: Mapping[str, Any]) -> Any:
    known = dict(list(inspect.signature(cls).parameters.items())[1:])
    for name, value in arguments.items():
        if name not in known:
            raise ConfigError(f"{key}.{name}: unknown key, {suggest(name, known)}")
        default = known[name].default
        if isinstance(default, int | float) and not isinstance(value, int | float):
            raise ConfigError(f"{key}.{name}: expected a value such as {default!r}, got {value!r}")
    with _told(key, cls.__name__, arguments):
        return cls(first, **arguments)


@contextmanager
def _told(key: str, name: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Tells of whatever torch raises for some arguments as a ConfigError."""
    try:
        yield
    except Exception as error:
        given = ", ".join(f"{k}={v!r}" for k, v in arguments.items()) or "nothing but its defaults"
        raise ConfigError(
            f"{key}: {name}, given {given}, fails: {error}; see torch's documentation of {name} "
            "for what it takes"
        ) from None


def _both(
    parameters: Iterable[torch.nn.Parameter], optimizer: Choice, schedule: Choice | None
) -> tuple[Any, Any]:
    """The optimizer of these parameters, and its schedule, if any."""
    name, arguments = optimizer
    cls = _class(torch.optim, torch.optim.Optimizer, _OPTIMIZER, name)
    stepper = _build(cls, _OPTIMIZER, parameters, arguments)
    if schedule is None:
        return stepper, None
    name, arguments = schedule
    kinds = torch.optim.lr_scheduler
    return stepper, _build(_class(kinds, kinds.LRScheduler, _SCHEDULE, name), _SCHEDULE, stepper, arguments)


def try_out(optimizer: Choice, schedule: Choice | None = None, device: str = "auto") -> None:
    """One step of both on four numbers. Raises ConfigError for what cannot train a model here."""
    numbers = torch.nn.Parameter(torch.ones(2, 2, device=pick_device(device)))
    numbers.grad = torch.ones_like(numbers)
    stepper, plan = _both([numbers], optimizer, schedule)
    with _told(_OPTIMIZER, *optimizer):
        stepper.step()
    if schedule is not None:
        with _told(_SCHEDULE, *schedule):
            plan.step()


class Trainer:
    """Holds the model and steps it. Raises ConfigError for an optimizer or schedule that cannot."""

    def __init__(
        self,
        task: Task,
        model: torch.nn.Module,
        optimizer: Choice,
        schedule: Choice | None = None,
        device: str = "auto",
    ) -> None:
        try_out(optimizer, schedule, device)
        self.task = task
        self.model = model.to(pick_device(device))
        self.optimizer, self.schedule = _both(self.model.parameters(), optimizer, schedule)
        self._schedule = schedule

    @property
    def learning_rate(self) -> float:
        """That of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, gradient: F32) -> None:
        """One optimizer step along gradient: float32[h]."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        parts = torch.split(torch.from_numpy(gradient.copy()), [p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.device)
        self.optimizer.step()

    def end_round(self) -> None:
        """One step of the schedule, whether or not the round had something to learn from.

        Raises ConfigError for a schedule of fewer rounds.
        """
        if self._schedule is not None:
            # torch warns where no optimizer step came first
            with warnings.catch_warnings(), _told(_SCHEDULE, *self._schedule):
                warnings.filterwarnings(
                    "ignore", message=".*lr_scheduler.step.*before.*", category=UserWarning
                )
                self.schedule.step()

    def parameters(self) -> F32:
        """float32[h]."""
        return learn.get_parameters(self.model)

    def buffers(self) -> F32:
        """float32[b]."""
        return learn.get_buffers(self.model)

    def set_buffers(self, values: F32) -> None:
        """Takes float32[b] over."""
        learn.set_buffers(self.model, values)

    def gradient(self, data: Dataset, normalizer: float) -> tuple[F32, F32]:
        """(float32[h], losses float32[n]) of Σ losses / normalizer."""
        return learn.gradient(self.model, self.task, data, normalizer)

    def evaluate(self, data: Dataset) -> dict[str, float]:
        """The mean loss, and the accuracy where the task has one."""
        return learn.evaluate(self.model, self.task, data)

    def save(self, path: str) -> None:
        """Writes the model as safetensors."""
        from safetensors.torch import save_file

        save_file({k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}, path)

    def state(self) -> State:
        """All that steps have changed: the model with its buffers, the optimizer and the schedule."""
        parts = {"model": dict(self.model.state_dict()), "optimizer": self.optimizer.state_dict()}
        if self.schedule is not None:
            parts["schedule"] = self.schedule.state_dict()
        state: State = _each(parts, torch.Tensor, lambda tensor: tensor.detach().cpu().numpy().copy())
        return state

    def restore(self, state: State) -> None:
        """Takes over what `state` gave."""
        parts = _each(state, np.ndarray, torch.from_numpy)
        self.model.load_state_dict(parts["model"])
        self.optimizer.load_state_dict(parts["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(parts["schedule"])


def _each(tree: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A tree of mappings, lists and tuples with its leaves of a kind changed."""
    if isinstance(tree, kind):
        return change(tree)
    if isinstance(tree, Mapping):
        return {key: _each(value, kind, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)([_each(value, kind, change) for value in tree])
    return tree
