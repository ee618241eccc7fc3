"""The layout of ECQ's bodies, and bodies that it did not write."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant import wire
from fedquant.codecs import entropy
from fedquant.codecs.base import Spec
from fedquant.codecs.ecq import CENTROIDS, DENSE, ECQ, SEGMENTS, SHORT, SIGNS, SPARSE, SUBTRACTED
from fedquant.codecs.indices import encode_indices
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE

KEY = Key(31)
QUICK = settings(max_examples=40, deadline=None, derandomize=True)
TOP = float(np.finfo(np.float32).max)


def framed(body: bytes, n: int, codec: ECQ, spec: Spec | None = None) -> np.ndarray:
    spec = spec or Spec(n)
    return codec.decode(wire.frame(body, codec.context(spec, KEY, {})), spec, KEY)


@pytest.mark.parametrize(
    ("codec", "body"),
    [
        (ECQ(nmse=0.5), "07 8040 01 07 00"),  # ±4.0 at one place: the 8th; positive
        (ECQ(bytes=12), "07 4040 02 16 01"),  # ±3.0 at two places: set 22 of C(8, 2); the first is negative
        (ECQ(nmse=0.4, dither=True), "17 6940 05 20 09"),  # steps of 3.64 ≤ √(12·.4·22.16/8), five ±1
    ],
)
def test_golden_bytes(codec: ECQ, body: str) -> None:
    x, spec = np.float32([0.1, -2, 0.7, 0, 0.3, -0.6, 1.1, 4]), Spec(8)
    assert codec.encode(x, spec, KEY)[0][HEADER_SIZE:] == bytes.fromhex(body)
    assert codec.encode(np.zeros(8, np.float32), spec, KEY)[0][HEADER_SIZE:] == b"\0"
    assert len(codec.encode(np.zeros(0, np.float32), Spec(0), KEY)[0]) == HEADER_SIZE


def test_the_layout_of_each_form() -> None:
    step, half = np.float32(1.5).tobytes(), np.float32(1.5).tobytes()[2:]
    q = np.array([0, 1, -2, 5] * 100, np.int32)
    dense = bytes([DENSE | CENTROIDS]) + step + struct.pack("3b", -64, 32, 0) + entropy.pack_integers(q)
    expected = np.tile(np.float32([0, 1.125, -3.1875, 7.5]), 100)
    assert np.array_equal(framed(dense, 400, ECQ()), expected)
    at = np.array([3, 77, 399])
    sparse = bytes([SPARSE | SHORT]) + half + b"\3" + encode_indices(at, 400)
    y = framed(sparse + entropy.pack_integers(np.array([0, -1, 4])), 400, ECQ())
    assert y[at].tolist() == [1.5, -1.5, 7.5]
    assert np.count_nonzero(y) == 3
    signs = bytes([SIGNS | SHORT]) + half + b"\3" + encode_indices(at, 400) + b"\2"
    assert framed(signs, 400, ECQ())[at].tolist() == [1.5, -1.5, 1.5]
    dithered = bytes([DENSE | SUBTRACTED | SHORT]) + half + entropy.pack_integers(q)
    expected = (q.astype(np.float32) + (np.float32(0.5) - rng.uniform(KEY, 400))) * np.float32(1.5)
    assert np.array_equal(framed(dithered, 400, ECQ(dither=True)), expected)
    plain = bytes([DENSE | SHORT]) + half + entropy.pack_integers(q)
    assert np.array_equal(framed(plain, 400, ECQ(dither=True)), q * np.float32(1.5))


def test_segments_in_use_shorten_indices() -> None:
    x, spec = np.zeros(10_000, np.float32), Spec(10_000, segments=(4000, 4100, 9000, 10_000))
    x[[4003, 4050, 9999]] = 2, -2, 2
    payload, _ = ECQ().encode(x, spec, KEY)
    where = encode_indices(np.array([3, 50, 1099]), 1100)
    expected = bytes([SIGNS | SHORT | SEGMENTS, 0, 0x40, 0b1010, 3]) + where + b"\2"
    assert payload[HEADER_SIZE:] == expected
    assert np.array_equal(ECQ().decode(payload, spec, KEY), x)
    assert len(ECQ().encode(x, Spec(10_000), KEY)[0]) > len(payload)
    no_segment = bytes([SPARSE | SHORT | SEGMENTS, 0, 0x40, 0, 0])
    assert not framed(no_segment, 10_000, ECQ(), spec).any()
    for bad in (expected[:3], expected[:4], expected[:3] + b"\x1a" + expected[4:], no_segment[:4] + b"\1"):
        with pytest.raises(CodecError):
            framed(bad, 10_000, ECQ(), spec)


HALF = np.float32(1.5).tobytes()[2:]
BAD = {
    "nothing": b"",
    "zeros and more": b"\0\0",
    "flags of zeros": b"\4",
    "unknown flag": b"\x41" + HALF * 2,
    "all q of some segments": bytes([DENSE | SHORT | SEGMENTS]) + HALF + entropy.pack_integers(np.arange(9)),
    "no step": bytes([DENSE | SHORT]),
    "half a step": bytes([DENSE]) + HALF,
    "no centroids": bytes([DENSE | SHORT | CENTROIDS]) + HALF + b"\0\0",
    "step zero": bytes([DENSE | SHORT, 0, 0]) + entropy.pack_integers(np.zeros(9, np.int32)),
    "step negative": bytes([DENSE | SHORT, 0, 0xBF]) + entropy.pack_integers(np.zeros(9, np.int32)),
    "step infinite": bytes([DENSE | SHORT, 0x80, 0x7F]) + entropy.pack_integers(np.zeros(9, np.int32)),
    "step not a number": bytes([DENSE | SHORT, 0xC0, 0x7F]) + entropy.pack_integers(np.zeros(9, np.int32)),
    "no integers": bytes([DENSE | SHORT]) + HALF,
    "too few integers": bytes([DENSE | SHORT]) + HALF + entropy.pack_integers(np.arange(8)),
    "subtracted, unasked": bytes([DENSE | SHORT | SUBTRACTED]) + HALF + entropy.pack_integers(np.arange(9)),
    "no count": bytes([SIGNS | SHORT]) + HALF,
    "count above n": bytes([SIGNS | SHORT]) + HALF + b"\x0a",
    "count without end": bytes([SIGNS | SHORT]) + HALF + b"\xff" * 9,
    "no indices": bytes([SIGNS | SHORT]) + HALF + b"\2",
    "no signs": bytes([SIGNS | SHORT]) + HALF + b"\2" + encode_indices(np.array([1, 5]), 9),
    "signs and more": bytes([SIGNS | SHORT]) + HALF + b"\2" + encode_indices(np.array([1, 5]), 9) + b"\0\0",
    "no values": bytes([SPARSE | SHORT]) + HALF + b"\2" + encode_indices(np.array([1, 5]), 9),
    "a value too large": bytes([SPARSE | SHORT])
    + HALF
    + b"\1"
    + encode_indices(np.array([1]), 9)
    + entropy.pack_integers(np.array([2**31 - 1])),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_bodies_are_refused(name: str) -> None:
    with pytest.raises(CodecError):
        framed(BAD[name], 9, ECQ())


def test_centroids_are_refused_with_dither() -> None:
    body = bytes([DENSE | SHORT | CENTROIDS]) + HALF + b"\0\0\0" + entropy.pack_integers(np.arange(9))
    assert framed(body, 9, ECQ()).shape == (9,)
    with pytest.raises(CodecError, match="ecq: first byte 0x0d is never written by ECQ"):
        framed(body, 9, ECQ(dither=True))


def test_a_body_for_nothing_is_empty() -> None:
    assert framed(b"", 0, ECQ()).shape == (0,)
    for body in (b"\0", BAD["no integers"]):
        with pytest.raises(CodecError):
            framed(body, 0, ECQ())


@QUICK
@given(st.binary(max_size=40), st.booleans(), st.sampled_from([DENSE, SPARSE, SIGNS, SPARSE | SEGMENTS]))
def test_hostile_bodies_are_refused_or_finite(noise: bytes, dither: bool, form: int) -> None:
    for body in (noise, bytes([form | SHORT, 0x80, 0x7F & (noise[0] if noise else 0)]) + noise[1:]):
        try:
            y = framed(body, 50, ECQ(dither=dither), Spec(50, segments=(8, 20, 50)))
        except CodecError:
            continue
        assert y.shape == (50,)
        assert np.isfinite(y).all()


def test_huge_integers_do_not_overflow() -> None:
    q = np.array([2**31 - 1, -(2**31) + 1, 3], np.int32)
    body = bytes([DENSE]) + np.float32(3e38).tobytes() + entropy.pack_integers(q)
    assert framed(body, 3, ECQ()).tolist() == [TOP, -TOP, TOP]
