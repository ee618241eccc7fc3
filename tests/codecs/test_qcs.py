from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fedquant import registry, wire
from fedquant.codecs.base import Spec
from fedquant.codecs.qcs import QCS
from fedquant.codecs.qcs_design import plan, useful
from fedquant.errors import CodecError, ConfigError
from fedquant.kernels import pack
from fedquant.kernels.reference import hadamard
from fedquant.wire import HEADER_SIZE
from tests.codecs.qcs_cases import KEY, body_of, gaussian, through

GOLDEN = [
    (QCS(), "a05b9f40558204"),
    (QCS(order=8, q=0.5), "35e51541000080401a0a"),
    (QCS(order=4, k=2, q=1.5, scale="bfloat16"), "d43f5b40000080401c0e"),
    (QCS(order=2, q=7.5), "c3d0903e8ef3a83e5916c13cbcf9283f0000804005fffc1f0f"),
    (QCS(entropy=True), "a05b9f4000558204"),
]


@pytest.mark.parametrize(("codec", "body"), GOLDEN, ids=str)
def test_golden_bytes(codec: QCS, body: str) -> None:
    x = np.array([1, -2, 3, 0.5, 0, -0.25, 7, 1e-3, 4], np.float32)
    assert codec.encode(x, Spec(9), KEY)[0][HEADER_SIZE:].hex() == body


@pytest.mark.parametrize(
    ("codec", "n", "body"),
    [
        (QCS(), 256, 4 + 52),  # 51 bytes of 5 trits, and one trit
        (QCS(), 2560, 40 + 512),
        (QCS(q=0.5), 256, 4 + 32),
        (QCS(q=1.5), 256, 4 + 64),
        (QCS(q=7.5), 256, 4 + 128),
        (QCS(q=127.5), 256, 4 + 256),
        (QCS(scale="bfloat16"), 512, 4 + 103),
        (QCS(k=5), 512, 8 + 2),
        (QCS(k=1, q=7.5), 1024, 16 + 1),  # signs alone
        (QCS(), 257, 4 + 4 + 52),  # one number more, a partition of order 1
        (QCS(scale="bfloat16"), 257, 2 + 4 + 52),  # which keeps its 4 bytes
        (QCS(), 265, 4 + 4 + 54),  # the last 9 numbers in a partition of order 12
        (QCS(), 0, 0),
    ],
    ids=str,
)
def test_sizes(codec: QCS, n: int, body: int) -> None:
    spec = Spec(n)
    assert len(codec.encode(gaussian(n), spec, KEY)[0]) == HEADER_SIZE + body
    assert codec.plan(spec).bytes == body
    zeros, _ = codec.encode(np.zeros(n, np.float32), spec, KEY)
    assert len(zeros) == HEADER_SIZE + codec.plan(spec).scale_bytes


def test_gain_of_256_ternary_coefficients() -> None:
    # 18.7 if a trit took log2(3) bits; five trits a byte make it 18.5
    assert 32 * 256 / (256 * math.log2(3) + 32) == pytest.approx(18.7, abs=0.02)
    n = 256 * 1000
    assert 4 * n / len(QCS().encode(gaussian(n), Spec(n), KEY)[0]) == pytest.approx(18.55, abs=0.01)


@pytest.mark.parametrize("order", [256, 100, "auto"])
@pytest.mark.parametrize("gain", [1, 3.5, 8, 16, 20, 32, 50])
@pytest.mark.parametrize(("scale", "entropy"), [("float32", False), ("bfloat16", False), ("float32", True)])
def test_gains_are_kept_in_real_bytes(order: Any, gain: float, scale: Any, entropy: bool) -> None:
    codec = QCS(order=order, gain=gain, scale=scale, entropy=entropy)
    for n in (700, 5000):
        payload, _ = codec.encode(gaussian(n), Spec(n), KEY)
        assert len(payload) * gain <= 4 * n


@pytest.mark.parametrize(
    ("order", "size", "gain"), [(16, 160, 12.0), (16, 150, 30.0), (12, 96, 4.0), (64, 64, 40.0)]
)
@pytest.mark.parametrize("scale", ["float32", "bfloat16"])
def test_no_plan_within_the_gain_is_better(order: int, size: int, gain: float, scale: Any) -> None:
    budget, short = int(4 * size / gain) - HEADER_SIZE, scale == "bfloat16"
    every = (plan(size, order, k, levels, short) for k in range(1, order + 1) for levels in range(2, 257))
    least = min((p.gamma for p in every if p.bytes <= budget), default=None)
    codec = QCS(order=order, gain=gain, scale=scale)
    if least is None:
        with pytest.raises(CodecError, match=f"qcs: gain={gain:g} leaves .* lower the gain"):
            codec.encode(gaussian(size), Spec(size), KEY)
    else:
        assert codec.gamma(Spec(size)) == least


def test_auto_takes_the_best_order() -> None:
    for n in (40, 3000):
        fewest = QCS(order="auto", q=7.5, k_over_n=0.5)
        assert fewest.plan(Spec(n)).bytes == min(
            QCS(order=o, q=7.5, k_over_n=0.5).plan(Spec(n)).bytes for o in useful(n)
        )
    best = min(QCS(order=o, gain=30).gamma(Spec(3000)) for o in (64, 128, 192, 256, 384, 512))
    assert QCS(order="auto", gain=30).gamma(Spec(3000)) <= best


@pytest.mark.parametrize(
    "codec", [QCS(), QCS(q=0.5), QCS(order=12, k=5), QCS(order=1), QCS(k_over_n=0.01)], ids=str
)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 11, 12, 13, 93, 255, 256, 257, 511, 513, 1000])
def test_any_length(codec: QCS, n: int) -> None:
    x = gaussian(n)
    y = through(codec, x)
    assert y.shape == (n,)
    runs = codec.plan(Spec(n)).runs
    assert sum(min(run.count * run.order, n - run.start) for run in runs) == n
    for run in runs:
        assert 1 <= run.k <= run.order
        part = slice(run.start, run.start + run.count * run.order)
        # every partition of T has rows of norm n/k; errors of ½ς a coefficient, ς ≤ ‖v‖∞/Q
        room = run.order / run.k * (1 + math.sqrt(run.k))
        assert np.linalg.norm((y - x)[part]) <= (1 + room) * np.linalg.norm(x[part]) * (1 + 1e-5)
    if codec.order == 1:
        assert np.array_equal(x, y)


@pytest.mark.parametrize("scale", [1e-45, 1e-42, 1e-38, 1e-20, 1e20, 1e34])
@pytest.mark.parametrize("codec", [QCS(), QCS(q=0.5), QCS(order=16, k=1), QCS(scale="bfloat16")], ids=str)
def test_tiny_and_huge_numbers(codec: QCS, scale: float) -> None:
    x = (gaussian(300).astype(float) * scale).astype(np.float32)
    y = through(codec, x).astype(float)
    # γ bounds the mean of ‖y − x‖²/‖x‖²: one draw of it gets four times as much. Where numbers are denormal,
    # so are scales and results: each is off by a step of its format.
    step = 2.0**-133 if codec.scale == "bfloat16" else 2.0**-149
    bound = 2 * math.sqrt(codec.gamma(Spec(300))) * np.linalg.norm(x.astype(float)) + 300 * step
    assert np.linalg.norm(y - x) <= bound


def test_numbers_that_would_overflow_are_refused_by_the_sender() -> None:
    x = np.full(512, 3e38, np.float32)
    with pytest.raises(CodecError, match=r"qcs: a scale of .* exceeds .*; x is too large for float32"):
        QCS().encode(x, Spec(512), KEY)


def test_zero_partitions_decode_to_zero() -> None:
    x = np.concatenate([np.zeros(256, np.float32), gaussian(300)])
    y = through(QCS(), x)
    assert not y[:256].any()
    assert y[256:].all()


def test_a_vector_that_the_kept_rows_miss_is_lost_whole() -> None:
    # k = 1 keeps the sum of r·x alone, and ±1, ±1 cancel for half of the keys
    x, codec = np.float32([1, 1]), QCS(order=2, k=1)
    seen = {tuple(through(codec, x, KEY.fold(round=t)).tolist()) for t in range(50)}
    assert {tuple(map(abs, y)) for y in seen} == {(0.0, 0.0), (2.0, 2.0)}


@pytest.mark.parametrize("scale", ["float32", "bfloat16"])
@pytest.mark.parametrize("bits", [0x7F80, 0x7FC0, 0xFF80, 0xBF80])  # ∞, NaN, −∞, −1
def test_bad_scales_are_refused(scale: Any, bits: int) -> None:
    codec = QCS(scale=scale)
    body, context = body_of(codec, gaussian(256))
    width = codec.plan(Spec(256)).scale_bytes
    body[:width] = (bits << 16).to_bytes(4, "little")[4 - width :]
    with pytest.raises(CodecError, match="qcs: a scale is negative or not finite"):
        codec.decode(wire.frame(bytes(body), context), Spec(256), KEY)


def test_hostile_bodies_are_refused() -> None:
    codec = QCS()
    body, context = body_of(codec, gaussian(257))
    for bad in (body[:-1], body + b"\0", b""):
        said = f"radix codes: {len(bad) - 8} bytes, expected 52|qcs: body of 0 bytes, its scales alone take 8"
        with pytest.raises(CodecError, match=said):
            codec.decode(wire.frame(bytes(bad), context), Spec(257), KEY)
    huge = bytes.fromhex("ffff7f7f") + bytes(body[4:])
    with pytest.raises(CodecError, match="not finite"):
        codec.decode(wire.frame(huge, context), Spec(257), KEY)
    codes = np.zeros(257, np.uint32)
    codes[256] = 2  # of the partition of one number, which has signs alone
    lone = bytes(body[:8]) + pack.pack_radix(codes, 3)
    with pytest.raises(CodecError, match="lone coefficient"):
        codec.decode(wire.frame(lone, context), Spec(257), KEY)


# ---- configuration


@pytest.mark.parametrize(("levels", "same"), [(1, QCS()), (7, QCS(q=7)), (127, QCS(q=127))])
def test_the_knob_sets_q(levels: int, same: QCS) -> None:
    spec, x, knobs = Spec(300), gaussian(300), {"levels": levels}
    payload, _ = QCS(q=0.5).encode(x, spec, KEY, knobs=knobs)
    expected, _ = same.encode(x, spec, KEY)
    assert payload[HEADER_SIZE:] == expected[HEADER_SIZE:]
    assert np.array_equal(QCS(q=0.5).decode(payload, spec, KEY, knobs), same.decode(expected, spec, KEY))
    assert QCS(q=0.5).variance_bound(spec, knobs) == same.variance_bound(spec)


@pytest.mark.parametrize("value", [0, 128, b"1"])
def test_bad_knobs_are_refused(value: int | bytes) -> None:
    with pytest.raises(CodecError, match=r"qcs: knob levels=.* is not an integer in \[1, 127\]"):
        QCS().encode(gaussian(3), Spec(3), KEY, knobs={"levels": value})
    with pytest.raises(CodecError, match="contradicts gain"):
        QCS(gain=2).encode(gaussian(300), Spec(300), KEY, knobs={"levels": 1})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"order": 92}, r"order=92 is known here; near it: \[76, 80, 84, 88, 96"),
        ({"order": 8, "k": 9}, "k=9 must be at most the order, which is 8"),
        ({"order": "auto", "k": 9}, "k=9 must be at most the order, which is auto"),
        ({"k": 9, "k_over_n": 0.5}, "without k_over_n"),
        ({"gain": 9, "q": 2}, "gain=9.* chooses k and q"),
        ({"q": 0.7}, "q: "),
        ({"q": 128}, "q: "),
        ({"order": 1024}, "order"),
    ],
)
def test_fields_that_make_no_sense_are_refused(
    fields: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.REGISTRY["codec"], "qcs", "fedquant.codecs.qcs:QCS")
    with pytest.raises(ConfigError, match=message):
        registry.create("codec", {"name": "qcs", **fields})


def test_whole_numbers_name_the_same_codec() -> None:
    assert QCS(q=2).identity == QCS(q=2.0).identity
    assert QCS(gain=9).identity == QCS(gain=9.0).identity


def test_float64_is_refused() -> None:
    with pytest.raises(CodecError, match="qcs: codes float32, not float64"):
        QCS().encode(np.zeros(3), Spec(3, "float64"), KEY)


def test_orders_of_the_paper_are_there() -> None:
    assert {96, 100, 192, 200, 288, 320, 384} <= set(hadamard.orders())
