"""The learning primitives: numpy at the edges, torch inside, on the device of the model.

A model's parameters (and its buffers) travel as one flat float32 vector. Vectors returned are the
caller's own; vectors given are copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from fedquant import kernels
from fedquant.errors import DataError
from fedquant.keys import Key, Purpose
from fedquant.tasks.base import Dataset, Indices, Task

F32 = npt.NDArray[np.float32]

_ROOM: Final = 1 << 22  # numbers in the samples evaluated at once: 27 of ImageNet's, over 1024 of CIFAR's


def use_threads(n: int) -> None:
    """Lets torch and the kernels use n threads in this process; one makes results equal on every engine."""
    kernels.set_threads(n)
    if torch.get_num_threads() != n:
        torch.set_num_threads(n)


def initialise(task: Task, key: Key) -> nn.Module:
    """The task's model with initial parameters drawn from the run's key; on the CPU."""
    with torch.random.fork_rng(devices=[]):
        # The CPU generator alone: torch.manual_seed would also reseed those of other devices.
        torch.default_generator.manual_seed(key.fold(purpose=Purpose.INIT).word)
        return task.build_model()


def segments(model: nn.Module) -> tuple[int, ...]:
    """Where each parameter tensor ends in the flat vector; the last end is its size."""
    return tuple(np.cumsum([p.numel() for p in _parameters(model)]).tolist())


def get_parameters(model: nn.Module) -> F32:
    """float32[h]: the trainable parameters."""
    return _flat(_parameters(model))


def set_parameters(model: nn.Module, vector: F32) -> None:
    """Takes `vector: float32[h]` over. Raises DataError for another size."""
    _fill("set_parameters", _parameters(model), vector)


def get_buffers(model: nn.Module) -> F32:
    """float32[b]: the floating-point buffers, such as batch-norm statistics."""
    return _flat(_buffers(model))


def set_buffers(model: nn.Module, vector: F32) -> None:
    """Takes `vector: float32[b]` over. Raises DataError for another size."""
    _fill("set_buffers", _buffers(model), vector)


def gradient(model: nn.Module, task: Task, data: Dataset, normalizer: float | None = None) -> tuple[F32, F32]:
    """(float32[h], float32[n]): the gradient of Σ losses / normalizer (n by default), the losses.

    In training mode: batch norm uses the batch's statistics and updates its own.
    No data: a zero gradient and no losses.
    """
    if not len(data):
        return np.zeros_like(get_parameters(model)), np.zeros(0, np.float32)
    model.train()
    x, y = _tensors(model, data)
    each = task.losses(model(x), y)
    total = each.sum() / (len(data) if normalizer is None else normalizer)
    return _flat(torch.autograd.grad(total, _parameters(model))), each.detach().cpu().numpy()


def losses(model: nn.Module, task: Task, data: Dataset, batch: int = 1024) -> F32:
    """float32[n]: the loss of each sample. In evaluation mode: changes nothing in the model.

    batch: how many at a time; large samples go in smaller batches.
    """
    if not len(data):
        return np.zeros(0, np.float32)
    outputs, targets = _outputs(model, data, batch)
    return task.losses(outputs, targets).cpu().numpy()


def local_update(
    model: nn.Module,
    task: Task,
    data: Dataset,
    batches: Sequence[Indices],
    lr: float,
    momentum: float = 0.0,
) -> tuple[F32, float]:
    """(float32[h], loss): what SGD steps over `batches` add to the parameters, and the mean loss.

    batches: int64[k] indices into the data, one array a step; empty ones are skipped. The
    parameters are put back, the buffers stay updated. No step: a zero update and a loss of NaN.
    """
    start = get_parameters(model)
    optimizer = torch.optim.SGD(_parameters(model), lr=lr, momentum=momentum)
    model.train()
    seen: list[torch.Tensor] = []
    for batch in batches:
        if not len(batch):
            continue
        x, y = _tensors(model, data.take(batch))
        each = task.losses(model(x), y)
        optimizer.zero_grad()
        torch.autograd.backward(each.mean())
        optimizer.step()
        seen.append(each.detach())
    optimizer.zero_grad()
    update = get_parameters(model) - start
    set_parameters(model, start)
    return update, float(torch.cat(seen).double().mean()) if seen else float("nan")


def evaluate(model: nn.Module, task: Task, data: Dataset, batch: int = 1024) -> dict[str, float]:
    """The mean "loss", and "accuracy" in [0, 1] where the task has one; batch: as for `losses`.

    Raises DataError without data.
    """
    if not len(data):
        raise DataError("evaluate: the data set is empty; give at least one sample")
    outputs, targets = _outputs(model, data, batch)
    loss = float(task.losses(outputs, targets).double().mean())
    accuracy = task.score(outputs, targets)
    return {"loss": loss} if accuracy is None else {"loss": loss, "accuracy": accuracy}


def _parameters(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _buffers(model: nn.Module) -> list[torch.Tensor]:
    return [b for b in model.buffers() if b.is_floating_point()]


def _tensors(model: nn.Module, data: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    device = next(model.parameters()).device
    return torch.tensor(data.x[:], device=device), torch.tensor(data.y, device=device)


@torch.no_grad()
def _outputs(model: nn.Module, data: Dataset, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's outputs for all data, at most `batch` samples at a time, and the targets."""
    model.eval()
    batch = max(1, min(batch, _ROOM // math.prod(data.x.shape[1:])))
    device = next(model.parameters()).device
    parts = (data.x[start : start + batch] for start in range(0, len(data), batch))
    outputs = torch.cat([model(torch.tensor(part, device=device)) for part in parts])
    return outputs, torch.tensor(data.y, device=device)


def _flat(tensors: Sequence[torch.Tensor]) -> F32:
    if not tensors:
        return np.zeros(0, np.float32)
    return parameters_to_vector(tensors).detach().float().cpu().numpy()


@torch.no_grad()
def _fill(what: str, tensors: Sequence[torch.Tensor], vector: F32) -> None:
    sizes = [t.numel() for t in tensors]
    if vector.shape != (sum(sizes),):
        raise DataError(f"{what}: the vector has shape {vector.shape}, the model needs ({sum(sizes)},)")
    if tensors:
        for tensor, part in zip(tensors, torch.split(torch.tensor(vector), sizes), strict=True):
            tensor.copy_(part.view_as(tensor))
