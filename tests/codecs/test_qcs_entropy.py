from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedquant import wire
from fedquant.codecs.base import Spec
from fedquant.codecs.qcs import QCS
from fedquant.errors import CodecError
from fedquant.wire import HEADER_SIZE
from tests.codecs.qcs_cases import KEY, body_of, gaussian

CODED = [
    QCS(),
    QCS(q=0.5),
    QCS(q=7.5),
    QCS(q=127.5),
    QCS(order=100, q=2),
    QCS(order=48, k=20, q=3),
    QCS(order=64, k=1),
    QCS(scale="bfloat16", estimator="mmse"),
]


@pytest.mark.parametrize("codec", CODED, ids=str)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 100, 255, 256, 257, 700, 5000])
def test_coded_bodies_decode_to_the_same_numbers(codec: QCS, n: int) -> None:
    spec, coded = Spec(n), replace(codec, entropy=True)
    x = gaussian(n)
    holes = x.copy()
    holes[256:600] = 0  # with whole partitions among them, and at n = 257 the last
    for numbers in (x, holes, np.zeros(n, np.float32), np.ones(n, np.float32)):
        payload, _ = coded.encode(numbers, spec, KEY)
        plain, _ = codec.encode(numbers, spec, KEY)
        assert len(payload) <= len(plain) + 1
        assert np.array_equal(coded.decode(payload, spec, KEY), codec.decode(plain, spec, KEY))


@pytest.mark.parametrize(("order", "zeros"), [(100, 0.7047), (128, 0.7134), (256, 0.7345)])
def test_ternary_coefficients_cost_their_entropy(order: int, zeros: float) -> None:
    # P(q = 0) = 1 − E|v|/ς = 1 − E[mean/max of `order` normal magnitudes], by simulation; 1.17 … 1.10 bits
    entropy = -zeros * math.log2(zeros) - (1 - zeros) * math.log2((1 - zeros) / 2)
    n = 50_000 // order * order
    codec = QCS(order=order, entropy=True)
    body = len(codec.encode(gaussian(n), Spec(n), KEY)[0]) - HEADER_SIZE - codec.plan(Spec(n)).scale_bytes
    # The share of zeros in 50,000 has sd 0.003 at order 256, and H changes by 2.5 bits a unit of it: 5 sigma,
    # and the table.
    assert abs(8 * body / n - entropy) < 5 * 0.0073 + 0.003


@pytest.mark.parametrize("entropy", [False, True])
def test_zero_partitions_cost_their_scales_alone(entropy: bool) -> None:
    codec, x = QCS(entropy=entropy), gaussian(2560)
    x[256:] = 0
    lone, _ = codec.encode(x, Spec(2560), KEY)
    first, _ = codec.encode(x[:256], Spec(256), KEY)
    assert len(lone) == len(first) + 9 * 4
    assert not codec.decode(lone, Spec(2560), KEY)[256:].any()


@pytest.mark.parametrize("scale", ["float32", "bfloat16"])
def test_hostile_coded_bodies_are_refused(scale: Any) -> None:
    spec, codec = Spec(700), QCS(scale=scale, entropy=True)
    body, context = body_of(codec, gaussian(700))
    head = codec.plan(spec).scale_bytes
    for bad in (b"", body[: head - 1]):
        with pytest.raises(CodecError, match=f"its scales alone take {head}"):
            codec.decode(wire.frame(bytes(bad), context), spec, KEY)
    for bad in (body[:head], body[:-1], body + b"\0", body[:head] + b"\x7f"):
        with pytest.raises(CodecError, match=r"(entropy|rans): "):
            codec.decode(wire.frame(bytes(bad), context), spec, KEY)
    zero = bytes(head // 3) + bytes(body[head // 3 :])  # a scale of zero, whose codes are there
    with pytest.raises(CodecError, match=r"(entropy|rans): "):
        codec.decode(wire.frame(zero, context), spec, KEY)
