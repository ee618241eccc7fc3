"""The server's side of learning: a model, its optimizer and schedule."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedquant.checkpoint import State
from fedquant.errors import ConfigError, suggest
from fedquant.tasks import learn
from fedquant.tasks.base import Dataset, Task

F32 = npt.NDArray[np.float32]


def pick_device(name: str) -> torch.device:
    """auto: CUDA where there is some. Raises ConfigError for a CUDA that is not there."""
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError("training.device: cuda, but torch finds no CUDA device; use auto or cpu")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


def _class(module: Any, base: type, key: str, name: str) -> type:
    found = {n.lower(): c for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, base)}
    found.pop(base.__name__.lower(), None)
    try:
        chosen: type = found[name.lower()]
    except KeyError:
        raise ConfigError(
            f"{key}.name: {name!r} is not in {module.__name__}, {suggest(name, found)}"
        ) from None
    return chosen


def _build(cls: type, key: str, first: Any, arguments: Mapping[str, Any]) -> Any:
    known = list(inspect.signature(cls).parameters)[1:]
    for name in arguments:
        if name not in known:
            raise ConfigError(f"{key}.{name}: unknown key, {suggest(name, known)}")
    try:
        return cls(first, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {error}") from None


class Trainer:
    """Holds the model and steps it. Raises ConfigError for an optimizer or schedule torch refuses."""

    def __init__(
        self,
        task: Task,
        model: torch.nn.Module,
        optimizer: tuple[str, Mapping[str, Any]],
        schedule: tuple[str, Mapping[str, Any]] | None = None,
        device: str = "auto",
    ) -> None:
        self.task = task
        self.model = model.to(pick_device(device))
        name, arguments = optimizer
        cls = _class(torch.optim, torch.optim.Optimizer, "training.optimizer", name)
        self.optimizer = _build(cls, "training.optimizer", self.model.parameters(), arguments)
        self.schedule: Any = None
        if schedule is not None:
            name, arguments = schedule
            key, kinds = "training.schedule", torch.optim.lr_scheduler
            cls = _class(kinds, kinds.LRScheduler, key, name)
            self.schedule = _build(cls, key, self.optimizer, arguments)

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
        """One step of the schedule, whether or not the round had something to learn from."""
        if self.schedule is not None:
            with warnings.catch_warnings():  # torch warns where no optimizer step came first
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
        """Mean loss and accuracy."""
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
