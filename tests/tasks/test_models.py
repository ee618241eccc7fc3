from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch

from fedquant.tasks.models import FC, BiLSTM, CifarNet, LeNet5, SmallCNN, WatchCNN, resnet


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


@pytest.mark.parametrize(
    ("build", "parameters", "channels", "side"),
    [
        (LeNet5, 61_706, 1, 28),
        (FC, 1_116_410, 1, 28),
        (SmallCNN, 55_338, 1, 28),
        (CifarNet, 1_756_426, 3, 32),
    ],
)
def test_small_image_models(
    build: Callable[[], torch.nn.Module], parameters: int, channels: int, side: int
) -> None:
    model = build()
    assert size(model) == parameters
    assert model(torch.zeros(3, channels, side, side)).shape == (3, 10)


@pytest.mark.parametrize(
    ("depth", "channels", "classes", "parameters", "statistics"),
    [(18, 3, 10, 11_173_962, 9_600), (18, 1, 10, 11_172_810, 9_600), (34, 3, 100, 21_328_292, 17_024)],
)
def test_resnets_of_the_papers(
    depth: Literal[18, 34], channels: int, classes: int, parameters: int, statistics: int
) -> None:
    """11,173,962 is h of DaQuSGD. Batch norm keeps a mean and a variance for each of its channels."""
    batch = resnet(depth, channels, classes, norm="batch")
    group = resnet(depth, channels, classes, norm="group")
    assert size(batch) == size(group) == parameters
    assert sum(b.numel() for b in batch.buffers() if b.is_floating_point()) == statistics
    assert list(group.buffers()) == []


@torch.no_grad()
def test_a_resnet_halves_32_pixels_three_times() -> None:
    torch.manual_seed(0)
    model = resnet(18)
    seen: list[torch.Size] = []
    model.layer4.register_forward_hook(lambda *given: seen.append(given[2].shape))  # type: ignore[operator, union-attr]
    x = torch.randn(2, 3, 32, 32)
    out = model(x)
    assert out.shape == (2, 10)
    assert seen == [(2, 512, 4, 4)]
    torch.testing.assert_close(model(x[:1]), out[:1], rtol=1e-4, atol=1e-4)  # group norm: samples apart
    assert resnet(18, channels=1)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


@torch.no_grad()
def test_bilstm() -> None:
    torch.manual_seed(0)
    model = BiLSTM()
    embedding, first, second, attention, head = 1_000_000, 84_992, 99_328, 8_256, 17_028
    assert size(model) == embedding + first + second + attention + head == 1_209_604
    texts = torch.randint(1, 10_000, (3, 12))
    texts[2] = 0  # no words at all
    out = model(texts)
    assert out.shape == (3, 4)
    assert out.isfinite().all()
    torch.testing.assert_close(model(texts[:1]), out[:1])


@torch.no_grad()
def test_the_attention_skips_padding() -> None:
    """What the encoder says at padded places changes nothing."""
    torch.manual_seed(0)
    model = BiLSTM(vocabulary=50, dimension=8, hidden=8)
    texts = torch.tensor([[5, 9, 3, 0, 0]])
    expected = model(texts)

    def spoil(module: object, given: object, out: tuple[torch.Tensor, object]) -> tuple[torch.Tensor, object]:
        states = out[0].clone()
        states[:, 3:] = 100.0
        return states, out[1]

    handle = model.encoder.register_forward_hook(spoil)
    assert torch.equal(model(texts), expected)
    handle.remove()
    assert not torch.allclose(model(torch.tensor([[5, 9, 4, 0, 0]])), expected)


@pytest.mark.parametrize("build", [FC, SmallCNN, CifarNet, lambda: resnet(18), BiLSTM])
def test_models_start_from_torch_alone(build: Callable[[], torch.nn.Module]) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(torch.cat([p.detach().ravel() for p in build().parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
