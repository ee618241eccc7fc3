"""What `entropy` does with bytes that it did not write."""

from __future__ import annotations

import numpy as np
import pytest

from fedquant.codecs import entropy
from fedquant.errors import CodecError
from tests.draws import skewed


def refused_or_in_range(data: bytes, n: int, levels: int, ends: tuple[int, ...]) -> bool:
    try:
        out = entropy.unpack(data, n, levels, ends)
    except CodecError:
        return True
    assert out.shape == (n,)
    assert n == 0 or int(out.max()) < levels
    return False


def test_random_bytes_are_refused_or_decode_to_codes() -> None:
    draws = np.random.default_rng(1)
    modes = [0, 1, 2, 3, *range(0x10, 0x30)]
    refused = 0
    for _ in range(6000):
        n, levels = int(draws.integers(0, 40)), int(draws.choice([2, 3, 15, 16, 256, 257, 65537]))
        data = bytes([draws.choice(modes)]) + draws.bytes(int(draws.integers(0, 40)))
        refused += refused_or_in_range(data, n, levels, (n // 2, n))
    assert refused > 5000


def test_damaged_payloads_are_refused_or_decode_to_codes() -> None:
    draws = np.random.default_rng(2)
    two_kinds = np.concatenate([skewed(200, 15, 1), skewed(200, 15, 50)])
    payloads = [
        (entropy.pack(codes, levels, ends), codes.size, levels, ends)
        for codes, levels, ends in (
            (skewed(300, 3, 3), 3, ()),
            (skewed(300, 15, 3), 15, ()),
            (two_kinds, 15, (200, 400)),
            (skewed(200, 5000, 9), 5000, ()),
        )
    ]
    assert {data[0] >> 4 or data[0] for data, *_ in payloads} == {1, entropy.CLUSTERS, entropy.INTEGERS}
    for _ in range(4000):
        data, n, levels, ends = payloads[draws.integers(len(payloads))]
        bad = bytearray(data)
        for _ in range(draws.integers(1, 4)):
            bad[draws.integers(len(bad))] = draws.integers(256)
        cut = bytes(bad[: draws.integers(len(bad) + 1)]) if draws.random() < 0.3 else bytes(bad)
        refused_or_in_range(cut + draws.bytes(2) if draws.random() < 0.1 else cut, n, levels, ends)


def test_damaged_integers_are_refused_or_decode() -> None:
    draws = np.random.default_rng(3)
    values = np.rint(draws.standard_t(1.5, 200) * 3).astype(np.int64)
    data = entropy.pack_integers(values)
    for _ in range(2000):
        bad = bytearray(data)
        for at in draws.integers(0, len(bad), draws.integers(1, 4)):
            bad[at] = draws.integers(256)
        try:
            out = entropy.unpack_integers(bytes(bad), 200)
        except CodecError:
            continue
        assert np.abs(out.astype(np.int64)).max() < 2**31
    for other in (b"", data[:1], data[:-1], data + b"\0", b"\2" + data[1:], b"\3\xff" + data[2:]):
        with pytest.raises(CodecError):
            entropy.unpack_integers(other, 200)
    with pytest.raises(CodecError, match="1 bytes for 0 numbers"):
        entropy.unpack_integers(b"\0", 0)


@pytest.mark.parametrize(
    ("hexed", "levels", "why"),
    [
        ("", 3, "no data"),
        ("04", 3, "mode 0x04"),
        ("10", 3, "mode 0x10"),
        ("1f", 3, "mode 0x1f"),
        ("030000", 3, "mode 0x03"),
        ("0203", 3, "3 clusters of 2 segments"),
        ("0103", 3, "3 is not below 3"),
        ("010000", 3, "or bytes follow it"),
        ("018000", 3, "zero at its end"),
        ("14", 3, "cut off in its table"),
        ("1477", 3, "rans: a stream of 0 bytes"),
        ("14ff", 3, "cut off in its table"),
        ("14fa02", 3, "exceeds the sum"),
        ("1408", 3, "not canonical"),
        ("14f0", 3, "does not sum"),
        ("149541", 3, "padding is not zero"),
        ("0383808000", 300, "varint"),
        ("03ac02", 300, "0 bytes for 9 numbers"),
    ],
)
def test_what_is_refused_and_why(hexed: str, levels: int, why: str) -> None:
    with pytest.raises(CodecError, match=why):
        entropy.unpack(bytes.fromhex(hexed), 9, levels, (4, 9))
