from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedquant.differential import several
from fedquant.differential.arrays import norm
from fedquant.differential.normal import normal
from fedquant.differential.problems import Quadratic, gaussian
from fedquant.differential.quantizers import Ball, Cube
from fedquant.errors import ConfigError
from fedquant.keys import Key

N = 16


def problems(count: int, instances: int, x0: np.ndarray) -> list[Quadratic]:
    """Workers of smoothness 10, 20, 40, … that agree on no minimizer."""
    out = []
    for k in range(count):
        own, scale = gaussian(Key(50 + k), N, 10.0, instances), 2.0**k
        out.append(
            replace(
                own,
                hessian=own.hessian * scale,
                linear=own.linear * scale,
                x0=x0,
                L=own.L * scale,
                mu=own.mu * scale,
            )
        )
    return out


@pytest.mark.parametrize("tool", [Cube, Ball])
@pytest.mark.parametrize(("count", "total"), [(1, 4.0), (3, 13.5), (4, 24.0)])
def test_several_workers_reach_the_minimizer_without_overflow(tool: type, count: int, total: float) -> None:
    instances = 100
    x0 = normal(Key(9), (instances, N))
    workers = problems(count, instances, x0)
    bits = several.allocate([float(w.L.max()) for w in workers], total)
    tools = [tool(N, b) for b in bits]
    for i in range(instances):
        own = [w.take(i) for w in workers]
        common = several.mean(own, x0[i])
        shares = several.shares(common, own, [t.q for t in tools])
        at = several.start(x0[i], np.array([norm(w.gradient(x0[i])) for w in own]))
        memories = list(at.memories)
        while not several.finished(at):
            sent = []
            for k, (worker, quantizer) in enumerate(zip(own, tools, strict=True)):
                u = several.quantizer_input(worker.gradient(at.x), memories[k])
                assert norm(u) <= at.ranges[k] * (1 + 1e-9)  # stricter than the cube is
                sent.append(quantizer(u, at.ranges[k]))
                memories[k] = several.learn(memories[k], sent[k])
            at = several.step(shares, at, np.stack(sent))
            assert at.t < 500
        assert np.array_equal(memories, at.memories)
        # ranges ended at 1e-12 of their first, and μ‖x̂ − x*‖ is within their sum
        assert norm(at.x - common.x_star) < 1e-12 * at.first.sum() / common.mu


def test_rates_fill_up_like_water() -> None:
    rates = several.allocate([8.0, 4.0, 1.0], 6.0)
    assert rates == pytest.approx([10 / 3, 7 / 3, 1 / 3])
    rates = several.allocate([1024.0, 512.0, 1.0], 5.0)
    assert rates == pytest.approx([3.0, 2.0, 0.0])
    assert several.allocate([3.0], 2.5) == pytest.approx([2.5])
    assert several.allocate([5.0] * 4, 10.0) == pytest.approx([2.5] * 4)
    for levels, total in (([1.0, -1.0], 3.0), ([1.0], 0.0), ([], 1.0), ([np.inf], 1.0)):
        with pytest.raises(ConfigError, match=r"rate allocation: .* must be positive"):
            several.allocate(levels, total)


def test_too_few_bits_are_refused() -> None:
    x0 = normal(Key(9), (2, N))
    workers = problems(2, 2, x0)
    common = several.mean(workers, x0)
    with pytest.raises(ConfigError, match="worker 1 has q = 2, needs q < 1; give more bits"):
        several.shares(common, workers, [0.5, Cube(N, 1.0).q])
    with pytest.raises(ConfigError, match="2 problems and 1 quantizers"):
        several.shares(common, workers, [0.5])


def test_instances_at_once() -> None:
    own = gaussian(Key(4), N, 5.0, 7)
    common = several.mean([own], own.x0)
    tool = Cube(N, 5.0)
    shares = several.shares(common, [own], [tool.q])
    one = several.start(own.x0[3], norm(own.gradient(own.x0))[3:4])
    at = several.start(own.x0, norm(own.gradient(own.x0))[:, np.newaxis])
    assert (at.memories.shape, at.ranges.shape) == ((7, 1, N), (7, 1))
    for _ in range(20):
        p = tool(several.quantizer_input(own.gradient(at.x), at.memories[:, 0]), at.ranges[:, 0])
        at = several.step(shares, at, p[:, np.newaxis])
        p = tool(several.quantizer_input(own.take(3).gradient(one.x), one.memories[0]), one.ranges[0])
        one = several.step(several.shares(common.take(3), [own.take(3)], [tool.q]), one, p[np.newaxis])
    assert at.x[3] == pytest.approx(one.x, rel=1e-12)
    assert (at.ranges < 0.01 * at.first).all()
