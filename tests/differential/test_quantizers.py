from __future__ import annotations

import math

import numpy as np
import pytest

from fedquant.codecs.ball import Ball as BallCodec
from fedquant.codecs.base import Codec, Spec
from fedquant.codecs.uniform import Uniform
from fedquant.differential.normal import normal
from fedquant.differential.quantizers import Ball, Cube, Quantizer
from fedquant.differential.server import range_knob
from fedquant.errors import CodecError
from fedquant.keys import Key

KEY = Key(3)
PAIRS: list[tuple[type[Quantizer], type[Codec]]] = [(Cube, Uniform), (Ball, BallCodec)]


@pytest.mark.parametrize(("tool", "codec"), PAIRS)
@pytest.mark.parametrize("bits", [1.0, 2.0, 3.3, 5.5, 8.0])
@pytest.mark.parametrize("n", [1, 7, 32])
def test_they_are_the_codecs(tool: type, codec: type, bits: float, n: int) -> None:
    quantizer, coder, spec = tool(n, bits), codec(bits=bits), Spec(n, "float64")
    assert quantizer.q == pytest.approx(coder.covering_ratio(spec), rel=1e-14)
    r = np.array([1.0, 0.3, 1e-9, 7e5])
    x = normal(KEY, (4, n))
    u = x / np.linalg.norm(x, axis=1, keepdims=True) * r[:, np.newaxis] * 0.999
    u[0] = np.eye(n)[0]  # at the end of the range
    p = quantizer(u, r)
    for i in range(4):
        knobs = range_knob(float(r[i]))
        payload, _ = coder.encode(u[i], spec, KEY, knobs=knobs)
        assert np.array_equal(coder.decode(payload, spec, KEY, knobs), p[i])
        assert np.array_equal(quantizer(u[i], r[i]), p[i])
    assert (np.linalg.norm(p - u, axis=1) <= quantizer.q * r * (1 + 1e-12)).all()


def test_fractional_rates_of_the_cube() -> None:
    quantizer = Cube(10, 2.5)  # 5.66 levels: (6/5)^j·5^10 ≤ 2^25 for j ≤ 6
    assert quantizer.q == pytest.approx(math.sqrt(6 / 36 + 4 / 25))
    assert quantizer.rho == pytest.approx(quantizer.q * (6**6 * 5**4) ** 0.1)


@pytest.mark.parametrize("tool", [Cube, Ball])
def test_overflows_are_errors(tool: type) -> None:
    u = np.zeros((3, 4))
    u[1, 2] = -1.6
    with pytest.raises(CodecError, match=r"1\.6 of instance 1 is outside r = 1\.0"):
        tool(4, 6.0)(u, np.ones(3))
    with pytest.raises(CodecError, match=r"is outside r = 1\.0"):
        tool(4, 6.0)(np.full(4, np.nan), np.float64(1))
