from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.codecs.frequencies import normalize
from fedquant.errors import CodecError
from fedquant.kernels.compiled import jit
from fedquant.kernels.compiled import rans as compiled
from fedquant.kernels.reference import rans as reference
from tests.draws import skewed

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
BOTH = pytest.mark.parametrize("rans", [reference, compiled], ids=["reference", "compiled"])


def frequencies(symbols: np.ndarray) -> np.ndarray:
    return normalize(np.bincount(symbols, minlength=256), reference.BITS)


def by_hand(data: bytes, m: int, freq: np.ndarray) -> list[int]:
    """The decoder as the layout says it, one symbol at a time."""
    chunks, lanes = -(-m // reference.CHUNK), reference.lanes(m)
    sizes = [int.from_bytes(data[4 * c : 4 * c + 4], "little") for c in range(chunks - 1)]
    at, out = 4 * len(sizes), []
    slots = [y for y, f in enumerate(freq.tolist()) for _ in range(f)]
    starts = (np.cumsum(freq) - freq).tolist()
    for c in range(chunks):
        states = [int.from_bytes(data[at + 4 * i : at + 4 * i + 4], "little") for i in range(lanes)]
        at += 4 * lanes
        begin = at
        for i in range(min(reference.CHUNK, m - c * reference.CHUNK)):
            x = states[i % lanes]
            slot = x % 2**14
            y = slots[slot]
            out.append(y)
            x = int(freq[y]) * (x // 2**14) + slot - starts[y]
            if x < 2**15:
                x = x * 2**16 + int.from_bytes(data[at : at + 2], "little")
                at += 2
            states[i % lanes] = x
        assert states == [2**15] * lanes
        assert c == chunks - 1 or (at - begin) // 2 == sizes[c]
    assert at == len(data)
    return out


@QUICK
@given(
    st.integers(0, 300) | st.integers(4090, 4100) | st.integers(16380, 16400),
    st.integers(1, 256),
    st.sampled_from([0.2, 1, 3, 20]),
)
def test_round_trip_of_every_tail(m: int, alphabet: int, power: float) -> None:
    symbols = skewed(m, alphabet, power).astype(np.uint8)
    freq = frequencies(symbols) if m else frequencies(np.zeros(1, np.uint8))
    data = reference.encode(symbols, freq)
    assert compiled.encode(symbols, freq) == data
    for rans in (reference, compiled):
        assert np.array_equal(rans.decode(data, m, freq), symbols)


@pytest.mark.parametrize("extra", [-1, 0, 1, 13, reference.CHUNK])
def test_round_trip_across_chunks(extra: int) -> None:
    symbols = skewed(2 * reference.CHUNK + extra, 243, 3).astype(np.uint8)
    freq = frequencies(symbols)
    data = compiled.encode(symbols, freq)
    assert reference.encode(symbols, freq) == data
    for rans in (reference, compiled):
        assert np.array_equal(rans.decode(data, symbols.size, freq), symbols)


def test_threads_change_nothing() -> None:
    symbols = np.resize(skewed(50_000, 250, 2), jit.MANY + 77).astype(np.uint8)
    freq = frequencies(symbols)
    data = compiled.encode(symbols, freq)
    assert np.array_equal(compiled.decode(data, symbols.size, freq), symbols)
    first = symbols[: 3 * reference.CHUNK]  # a chunk is coded on its own: its words do not depend on others
    alone = compiled.encode(first, freq)
    assert alone[8:100] == data[4 * (symbols.size // reference.CHUNK) :][:92]


@BOTH
@pytest.mark.parametrize("m", [1, 100, 5000, 20_000, reference.CHUNK + 5])
def test_the_layout_is_the_documented_one(rans: ModuleType, m: int) -> None:
    symbols = skewed(m, 40, 2).astype(np.uint8)
    freq = frequencies(symbols)
    assert by_hand(rans.encode(symbols, freq), m, freq) == symbols.tolist()


@BOTH
def test_golden_bytes(rans: ModuleType) -> None:
    symbols = np.array([0, 1, 0, 2, 0, 0, 1, 0], np.uint8)
    freq = np.array([10240, 4096, 2048])
    # log2 of the state grows by 14 − log2 f a symbol; 5·0.678 + 2·2 + 3 = 10.4 from 2**15: no word is sent
    data = rans.encode(symbols, freq)
    assert data == bytes.fromhex("00a09602")
    assert rans.decode(data, 8, freq).tolist() == symbols.tolist()


@BOTH
def test_a_certain_symbol_takes_states_alone(rans: ModuleType) -> None:
    freq = np.array([0, 1 << 14])
    data = rans.encode(np.ones(5000, np.uint8), freq)
    assert data == bytes.fromhex("00800000") * 2
    assert rans.decode(data, 5000, freq).tolist() == [1] * 5000


@pytest.mark.parametrize("power", [1, 2, 6])
def test_size_is_the_cross_entropy(power: float) -> None:
    symbols = skewed(60_000, 200, power).astype(np.uint8)
    freq = frequencies(symbols)
    ideal = (14 - np.log2(freq[symbols])).sum() / 8
    # 8 states of 4 bytes hold their logarithm above 2**15, from 0 to 2 bytes each
    assert ideal < len(compiled.encode(symbols, freq)) < ideal * 1.0005 + 32


@BOTH
@pytest.mark.parametrize("m", [1, 3000, 17_000, reference.CHUNK + 9])
def test_damaged_streams_are_refused(rans: ModuleType, m: int) -> None:
    symbols = skewed(m, 40, 2).astype(np.uint8)
    freq = frequencies(symbols)
    data = rans.encode(symbols, freq)
    bad = [b"", data[:-1], data[:-2], data + b"\0", data + b"\0\0", data[2:], bytes(len(data))]
    bad += [b"\xff" * len(data), b"\xff" * 4 + data[4:]]
    bad += [data[:i] + bytes([data[i] ^ 0x10]) + data[i + 1 :] for i in (0, 1, len(data) // 2, len(data) - 1)]
    for other in bad:
        try:
            out = rans.decode(other, m, freq)
        except CodecError:
            continue
        assert np.isin(out, symbols).all()  # another stream of known symbols
    for other in bad[:9]:
        with pytest.raises(CodecError, match="rans: "):
            rans.decode(other, m, freq)
    with pytest.raises(CodecError, match="expected none"):
        rans.decode(data, 0, freq)


def test_both_refuse_the_same_streams() -> None:
    draws = np.random.default_rng(5)
    freq = frequencies(np.arange(100, dtype=np.uint8) ** 2)
    for _ in range(300):
        m = int(draws.integers(1, 60))
        symbols = draws.choice(256, m, p=freq / freq.sum()).astype(np.uint8)
        data = bytearray(reference.encode(symbols, freq))
        data[draws.integers(len(data))] ^= 1 << draws.integers(8)
        results: list[Any] = []
        for rans in (reference, compiled):
            try:
                results.append(rans.decode(bytes(data), m, freq).tolist())
            except CodecError as error:
                results.append(str(error))
        assert results[0] == results[1]
