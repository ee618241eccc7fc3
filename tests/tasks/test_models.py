from __future__ import annotations

import pytest
import torch

from fedquant.tasks.models import LeNet5, WatchCNN


def size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("norm", "parameters", "buffers"), [("group", 210183, 0), ("batch", 210183, 9), ("none", 209735, 0)]
)
def test_watch_cnn(norm: str, parameters: int, buffers: int) -> None:
    model = WatchCNN(norm=norm)  # type: ignore[arg-type]
    assert size(model) == parameters
    assert len(list(model.buffers())) == buffers
    for length in (25, 100, 500):
        assert model(torch.zeros(2, 6, length)).shape == (2, 7)


def test_group_norm_keeps_samples_apart() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 6, 100)
    apart, together = WatchCNN(norm="group"), WatchCNN(norm="batch")
    torch.testing.assert_close(apart(x)[:1], apart(x[:1]))
    assert not torch.allclose(together(x)[:1], together(x[:1]))


def test_lenet5() -> None:
    assert size(LeNet5()) == 61706
    assert LeNet5()(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
