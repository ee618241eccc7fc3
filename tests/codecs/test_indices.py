from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.codecs.indices import ENUMERATIVE, decode_indices, encode_indices
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key

LARGE = ENUMERATIVE + 1


def as_set(*indices: int) -> np.ndarray:
    return np.array(indices, np.int64)


def uniform_set(n: int, k: int) -> np.ndarray:
    return np.sort(rng.choice(Key(8), n, k))


def slow_rice(indices: list[int], low: int) -> bytes:
    gaps = [b - a - 1 for a, b in zip([-1, *indices], indices, strict=False)]
    planes = [str(gap >> i & 1) for i in range(low) for gap in gaps]
    bits = "".join(planes) + "".join("0" * (gap >> low) + "1" for gap in gaps)
    bits += "0" * (-len(bits) % 8)
    return bytes([low]) + bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


@pytest.mark.parametrize("n", range(9))
def test_small_sets_exhaustively(n: int) -> None:
    for k in range(n + 1):
        sets = math.comb(n, k)
        size = -(-(sets - 1).bit_length() // 8)
        found = set()
        for given_set in combinations(range(n), k):
            data = encode_indices(as_set(*given_set), n)
            assert len(data) == size
            found.add(data)
            back, end = decode_indices(b"xy" + data + b"z", 2, n, k)
            assert (back.tolist(), back.dtype, end) == (list(given_set), np.int64, 2 + size)
        assert found == {r.to_bytes(size, "little") for r in range(sets)}
        for rank in range(sets, 1 << 8 * size):
            with pytest.raises(CodecError, match=rf"rank is not below C\({n}, {k}\)"):
                decode_indices(rank.to_bytes(size, "little"), 0, n, k)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from([9, 100, ENUMERATIVE, LARGE, 40_000]), st.data())
def test_round_trip(n: int, data: st.DataObject) -> None:
    spread = data.draw(st.sampled_from([n, 40]))  # 40: sets crowded at the start
    indices = sorted(data.draw(st.sets(st.integers(0, min(n, spread) - 1))))
    code = encode_indices(as_set(*indices), n)
    back, end = decode_indices(code, 0, n, len(indices))
    assert back.tolist() == indices
    assert end == len(code)


@pytest.mark.parametrize("n", [100, 1000, ENUMERATIVE])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_enumerative_sizes_are_the_number_of_sets(n: int, share: float) -> None:
    k = math.ceil(share * n)
    exact = (math.comb(n, k) - 1).bit_length()  # ⌈log2 C(n, k)⌉
    data = encode_indices(uniform_set(n, k), n)
    assert len(data) == -(-exact // 8)
    assert decode_indices(data, 0, n, k)[0].tolist() == uniform_set(n, k).tolist()


@pytest.mark.parametrize("n", [LARGE, 100_000])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.03, 0.1, 0.25, 0.4, 0.5])
def test_rice_sizes(n: int, share: float) -> None:
    k = math.ceil(share * n)
    worst = 8 + k * (2 + math.log2(n / k)) + 7  # parameter, the bound, padding
    every, packed = np.arange(0, n, n // k)[:k], np.arange(n - k, n)
    for indices in (uniform_set(n, k), every, packed):
        assert 8 * len(encode_indices(indices, n)) <= worst
    # Uniform sets: the best Rice code of geometric gaps takes at most .10 bit an index above the entropy;
    # 5 sigma of the sum of k unary parts, each of a standard deviation below 2.1.
    entropy = (math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)) / math.log(2)
    assert 8 * len(encode_indices(uniform_set(n, k), n)) <= entropy + 0.1 * k + 16 + 5 * 2.1 * math.sqrt(k)


@pytest.mark.parametrize("indices", [[0], [LARGE - 1], [0, 3, 7], [4000 % LARGE, 2048], [5, 6, 7, 900, 2000]])
def test_rice_is_what_its_format_says(indices: list[int]) -> None:
    indices = sorted(indices)
    codes = [slow_rice(indices, low) for low in range(13)]
    code = encode_indices(as_set(*indices), LARGE)
    assert code == codes[code[0]]
    assert len(code) == min(map(len, codes))
    for any_parameter in codes:
        assert decode_indices(any_parameter, 0, LARGE, len(indices))[0].tolist() == indices


def test_golden_bytes() -> None:
    assert encode_indices(as_set(1, 3), 4) == b"\x04"  # after {0,1} {0,2} {1,2} {0,3}
    assert encode_indices(as_set(0, 3, 7), LARGE) == b"\x00\x89"  # a bitmap
    # gaps 1000, 999: their bits 0…8 in turn, then 01 01, for both are 1 above
    rice = bytes([9, 0b01101010, 0b11111100, 0b00101011])
    assert encode_indices(as_set(1000, 2000), LARGE) == rice
    for n in (5, LARGE):
        assert encode_indices(as_set(), n) == encode_indices(np.arange(n), n) == b""
        assert decode_indices(b"", 0, n, n)[0].tolist() == list(range(n))


def test_large_vectors() -> None:
    n = (1 << 32) - 1
    indices = as_set(0, 1, 1 << 31, n - 2, n - 1)
    data = encode_indices(indices, n)
    assert decode_indices(data, 0, n, 5)[0].tolist() == indices.tolist()


@pytest.mark.parametrize(
    ("data", "n", "k", "match"),
    [
        (b"", 9, 2, "0 bytes, 2 of 9 take 1"),
        (b"\x24", 9, 2, r"rank is not below C\(9, 2\)"),
        (b"", LARGE, 1, "Rice parameter is missing"),
        (b"\x20\x01", LARGE, 1, "Rice parameter is missing or above 31"),
        (b"\x00", LARGE, 1, "cut off, or not 1 of"),
        (b"\x00\x00", LARGE, 1, "cut off, or not 1 of"),
        (b"\x1f\xff\xff", LARGE, 1, "cut off"),
        (b"\x00\x02" + bytes(400), LARGE, 2, "cut off, or not 2 of"),
        (b"\x00" + bytes(256) + b"\x02", LARGE, 1, "not below 2049, or padding"),
        (b"\x00" + bytes(255) + b"\x40\x02", LARGE, 2, "not below 2049, or padding"),
        (slow_rice([LARGE], 5), LARGE, 1, "not below 2049, or padding"),
        (slow_rice([3 * LARGE], 31), LARGE, 1, "not below 2049, or padding"),
        (b"\x00\x89", LARGE, 2, "not below 2049, or padding"),
        (b"\x01\x06", LARGE, 1, "not below 2049, or padding"),
    ],
)
def test_bad_codes_are_refused(data: bytes, n: int, k: int, match: str) -> None:
    with pytest.raises(CodecError, match=match):
        decode_indices(data, 0, n, k)


def test_hostile_codes_are_refused_or_sets() -> None:
    taken = 0
    for trial in range(2000):
        n = LARGE if trial % 2 else 60
        k = trial % 9 + 1
        body = (rng.uint32(Key(9, round=trial), trial % 40) & 0xFF).astype(np.uint8)
        body[:1] &= 0x0F  # mostly small Rice parameters
        try:
            indices, end = decode_indices(body.tobytes(), 0, n, k)
        except CodecError:
            continue
        taken += 1
        assert indices.size == k
        assert end <= body.size
        assert (np.diff(indices, prepend=-1) > 0).all()
        assert indices[-1] < n
    assert taken > 100


def test_clustered_indices_are_shorter_entropy_coded() -> None:
    n, key = 1_000_000, Key(3)
    dense = np.flatnonzero(rng.uniform(key, 20_000) < 0.3)
    sparse = 20_000 + np.flatnonzero(rng.uniform(key.fold(round=1), n - 20_000) < 0.001)
    chosen = np.concatenate([dense, sparse])
    plain, coded = (encode_indices(chosen, n, flag) for flag in (False, True))
    assert len(coded) < 0.7 * len(plain)
    for data in (plain, coded):
        back, end = decode_indices(data + b"more", 0, n, chosen.size)
        assert np.array_equal(back, chosen)
        assert end == len(data)
    for bad in (coded[:3], coded[:-1], coded[:1] + b"\xff\xff\xff\xff" + coded[5:]):
        with pytest.raises(CodecError):
            decode_indices(bad, 0, n, chosen.size)


def test_uniform_indices_stay_in_rice_codes() -> None:
    chosen = np.flatnonzero(rng.uniform(Key(4), 100_000) < 0.01)
    assert encode_indices(chosen, 100_000, True) == encode_indices(chosen, 100_000)
