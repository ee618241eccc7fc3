from __future__ import annotations

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from fedquant.codecs.base import Spec
from fedquant.codecs.sign import Sign
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE, NO_KNOBS, frame

KEY = Key(21)
VOTE = Sign(aggregate="vote")


def vector(n: int, seed: int = 5) -> np.ndarray:
    return rng.uniform(Key(seed), n) * np.float32(2) - np.float32(1)


def through(codec: Sign, x: np.ndarray, spec: Spec | None = None) -> np.ndarray:
    spec = spec or Spec(x.size)
    return codec.decode(codec.encode(x, spec, KEY)[0], spec, KEY)


def body_of(codec: Sign, x: np.ndarray, spec: Spec) -> bytes:
    return codec.encode(x, spec, KEY)[0][HEADER_SIZE:]


def test_bytes() -> None:
    # ten bits make H = 2 bytes: byte 0 holds numbers 0, 2, 4, 6, 8 from its lowest bit up, byte 1 the rest
    x = np.float32([3, -1, -1, 2, 0, -0.0, -2, 1, -5, 5])
    bits = bytes([0b00101, 0b11110])
    assert body_of(VOTE, x, Spec(10)) == bits
    assert body_of(Sign(), x, Spec(10)) == bytes.fromhex("00000040") + bits  # 20 in 10 numbers
    # groups of four: [3 −1 −1 2], then zeros that take no bits, then [−5 5]
    x[4:8] = 0
    scales = np.array([1.75, 0, 5], "<f4").tobytes()
    assert body_of(Sign(scope=4), x, Spec(10)) == scales + bytes([0b1001, 0b10])


@pytest.mark.parametrize("n", [0, 1, 8, 9, 1001, 5000])
def test_sizes(n: int) -> None:
    x = vector(n)
    assert len(body_of(VOTE, x, Spec(n))) == -(-n // 8)
    assert len(body_of(Sign(), x, Spec(n))) == (4 if n else 0) + -(-n // 8)
    assert len(body_of(Sign(), x * np.float32(0), Spec(n))) == (4 if n else 0)
    assert len(body_of(Sign(scope=100), x, Spec(n))) == sum(
        4 + -(-min(100, n - start) // 8) for start in range(0, n, 100)
    )


def test_decoded_numbers_are_signs_times_the_mean_magnitude() -> None:
    x, spec = vector(1000), Spec(1000, segments=(400, 1000))
    y = through(Sign(scope="segment"), x, spec)
    for start, stop in ((0, 400), (400, 1000)):
        part = x[start:stop]
        scale = np.float32(np.abs(part.astype(float)).mean())
        assert y[start:stop].tolist() == np.where(part >= 0, scale, -scale).tolist()
    assert np.array_equal(through(VOTE, x), np.where(x >= 0, 1, -1))


def test_means_contract_by_the_formula() -> None:
    for n in (1, 2, 100, 5000):
        x = vector(n)
        wide, y = x.astype(float), through(Sign(), x).astype(float)
        left = (wide**2).sum() - np.abs(wide).sum() ** 2 / n
        # to first order the error does not depend on the scale, rounded by 2⁻²⁴ of itself
        assert ((wide - y) ** 2).sum() == pytest.approx(left, rel=1e-12, abs=n * 2.0**-46)
        assert left < (wide**2).sum()


def test_means_average_by_weight() -> None:
    total = np.float32([3, -6])
    assert Sign().finish(total, 4.0).tolist() == [0.75, -1.5]


def test_votes_elect_the_majority() -> None:
    spec = Spec(4)
    voters = [np.float32(v) for v in ([1, -2, 3, 0], [9, -1, -1, -0.0], [-0.1, -7, 2, 5], [4, 3, -2, 0])]
    payloads = [VOTE.encode(x, spec, KEY)[0] for x in voters]
    total = np.zeros(4, np.float32)
    assert VOTE.add_decoded(total, payloads, spec, [KEY] * 4, [1.0] * 4) == {}
    assert total.tolist() == [2, -2, 0, 4]
    winner = VOTE.finish(total, 4.0)
    assert winner.dtype == np.float32
    assert winner.tolist() == [1, -1, 0, 1]
    weighted = np.zeros(4, np.float32)
    VOTE.add_decoded(weighted, payloads, spec, [KEY] * 4, [1.0, 1.0, 9.0, 1.0])
    assert VOTE.finish(weighted, 12.0).tolist() == [-1, -1, 1, 1]


def test_zeros() -> None:
    zeros = np.float32([0, -0.0, 0])
    assert through(VOTE, zeros).tolist() == [1, 1, 1]
    assert through(Sign(), zeros).tolist() == [0, 0, 0]
    assert through(VOTE, zeros[:0]).size == through(Sign(), zeros[:0]).size == 0


def test_extreme_numbers() -> None:
    top = np.finfo(np.float32).max
    assert np.array_equal(through(Sign(), np.full(1000, -top)), np.full(1000, -top))
    # a mean that rounds to zero in float32 decodes to zeros
    assert not through(Sign(), np.float32([1e-45] + [0] * 8)).any()


def test_it_is_biased() -> None:
    assert Sign().variance_bound(Spec(9)) is None
    assert VOTE.variance_bound(Spec(9)) is None


@pytest.mark.parametrize("scope", ["segment", 4])
def test_votes_have_no_scope(scope: str | int) -> None:
    for make in (lambda **given: Sign(**given), lambda **given: TypeAdapter(Sign).validate_python(given)):
        with pytest.raises((ValueError, ValidationError), match=f"scope={scope!r} has no meaning"):
            make(aggregate="vote", scope=scope)


@pytest.mark.parametrize(
    ("codec", "body", "message"),
    [
        (Sign(), "0000803f", "packed codes: 0 bytes, expected 1 for 3"),
        (Sign(), "0000803f 0f", "padding is not zero"),
        (Sign(), "0000803f 07 00", "sign: body of 6 bytes, expected 5"),
        (Sign(), "00000000 07", "sign: body of 5 bytes, expected 4"),
        (Sign(), "000080", "sign: body of 3 bytes, its scales alone take 4"),
        (Sign(), "000080ff 07", "sign: a scale is negative or not finite"),
        (VOTE, "", "packed codes: 0 bytes, expected 1 for 3"),
        (VOTE, "0f", "padding is not zero"),
        (VOTE, "0700", "packed codes: 2 bytes, expected 1 for 3"),
    ],
)
def test_bad_bodies_are_refused(codec: Sign, body: str, message: str) -> None:
    payload = frame(bytes.fromhex(body), codec.context(Spec(3), KEY, NO_KNOBS))
    with pytest.raises(CodecError, match=message):
        codec.decode(payload, Spec(3), KEY)
