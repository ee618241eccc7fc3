"""The layout of Sparse's bodies, and bodies that it did not write."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from fedquant import wire
from fedquant.codecs.base import Spec
from fedquant.codecs.indices import encode_indices
from fedquant.codecs.sparse import Sparse
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.wire import HEADER_SIZE, NO_KNOBS
from tests.codecs.test_sparse import KEY, vector


def test_golden_bytes() -> None:
    # m = 2: 4 is above M = (1+1)/(2−1) = 2; −1 and 1 are kept with probability ½.
    x, spec, codec = np.float32([4, -1, 1]), Spec(3), Sparse(density=2 / 3)
    key = next(k for k in (KEY.fold(sensor=i) for i in range(99)) if (rng.uniform(k, 3)[1:] >= 0.5).all())
    payload, _ = codec.encode(x, spec, key)
    # 3 kept, 1 of them above M, all of 3 (no bytes), the first of 3, 4.0, M = 2.0, signs − +
    assert payload[HEADER_SIZE:] == b"\x03\x01" + b"\x00" + struct.pack("<ff", 4, 2) + b"\x01"
    assert codec.decode(payload, spec, key).tolist() == [4, -2, 2]
    key = next(k for k in (KEY.fold(sensor=i) for i in range(99)) if (rng.uniform(k, 3)[1:] < 0.5).all())
    payload, _ = codec.encode(x, spec, key)
    # 1 kept and above M: the first of 3, then 4.0
    assert payload[HEADER_SIZE:] == b"\x01\x01" + b"\x00" + struct.pack("<f", 4)


def test_sizes() -> None:
    n, codec = 20_000, Sparse(density=0.05)
    x, spec = vector(n), Spec(20_000)
    payload, _ = codec.encode(x, spec, KEY)
    y = codec.decode(payload, spec, KEY)
    k, above = np.count_nonzero(y), np.count_nonzero(np.abs(y) > codec.magnitude(x))
    bits = math.log2(math.comb(n, k)) + math.log2(math.comb(k, above)) + 32 * above + (k - above) + 32
    # counts of 2 bytes; Rice's excess of .1 bit an index, parameter bytes and paddings
    assert 8 * (len(payload) - HEADER_SIZE) <= bits + 32 + 0.1 * (k + above) + 8 * 5


def read(body: bytes, n: int) -> np.ndarray:
    codec, spec = Sparse(), Spec(n)
    return codec.decode(wire.frame(body, codec.context(spec, KEY, NO_KNOBS)), spec, KEY)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"", "count is cut off or above 9"),
        (b"\x03", "count is cut off or above 3"),
        (b"\x03\x04", "count is cut off or above 3"),
        (b"\x0a\x00", "count is cut off or above 9"),
        (b"\x00\x00\x00", "body of 3 bytes, expected 1"),
        (b"\x01\x00", "indices: 0 bytes, 1 of 9 take 1"),
        (b"\x02\x01\x00", "indices: 0 bytes, 1 of 2 take 1"),
        (b"\x01\x00\x09", "rank is not below"),
        (b"\x01\x00\x00" + struct.pack("<f", 1), "body of 7 bytes, expected 8"),
        (b"\x01\x00\x00" + struct.pack("<f", 0) + b"\x00", "shared magnitude 0.0 is not positive"),
        (b"\x01\x00\x00" + struct.pack("<f", -1) + b"\x00", "shared magnitude -1.0 is not positive"),
        (b"\x01\x00\x00" + struct.pack("<f", math.inf) + b"\x00", "shared magnitude inf is not"),
        (b"\x01\x00\x00" + struct.pack("<f", math.nan) + b"\x00", "shared magnitude nan is not"),
        (b"\x01\x00\x00" + struct.pack("<f", 1) + b"\x02", "padding is not zero"),
        (b"\x01\x01\x00" + struct.pack("<f", math.inf), "not finite"),
    ],
)
def test_bad_bodies_are_refused(body: bytes, match: str) -> None:
    with pytest.raises(CodecError, match=match):
        read(body, 9)


@pytest.mark.parametrize("n", [9, 3000])
def test_changed_bodies_are_refused_or_finite(n: int) -> None:
    payload, _ = Sparse(density=20 / n if n > 20 else 0.5).encode(vector(n), Spec(n), KEY)
    body = payload[HEADER_SIZE:]
    for bit in range(8 * len(body)):
        changed = bytearray(body)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            y = read(bytes(changed), n)
        except CodecError:
            continue
        assert y.shape == (n,)
        assert np.isfinite(y).all()
    for size in range(len(body)):
        with pytest.raises(CodecError):
            read(body[:size], n)


def test_any_configuration_reads_any_payload() -> None:
    x, spec = vector(100), Spec(100)
    payload, _ = Sparse(variance=2.0).encode(x, spec, KEY)
    assert np.array_equal(
        Sparse(density=0.5).decode(payload, spec, KEY), Sparse(variance=2.0).decode(payload, spec, KEY)
    )


def test_indices_of_the_kept_come_first() -> None:
    body = b"\x02\x00" + encode_indices(np.array([2, 5]), 9) + struct.pack("<f", 1.5) + b"\x02"
    assert read(body, 9).tolist() == [0, 0, 1.5, 0, 0, -1.5, 0, 0, 0]
