from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.kernels.compiled import jit
from fedquant.kernels.compiled import symbols as compiled
from fedquant.kernels.reference import symbols as reference
from fedquant.keys import Key

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
BOTH = pytest.mark.parametrize("kernel", [reference, compiled], ids=["reference", "compiled"])
KEY = Key(8)


def draw(n: int, levels: int) -> np.ndarray:
    return rng.integers(KEY, n, levels).astype(np.uint32)


@pytest.mark.parametrize(
    ("levels", "t"), [(2, 8), (3, 5), (4, 4), (6, 3), (7, 2), (15, 2), (16, 2), (17, 1), (256, 1)]
)
def test_digits_per_symbol(levels: int, t: int) -> None:
    assert reference.digits_per_symbol(levels) == t
    assert levels**t <= 256 < levels ** (t + 1)


@QUICK
@given(st.integers(0, 9000), st.sampled_from([2, 3, 4, 5, 6, 7, 15, 16, 17, 255, 256]))
def test_joined_codes_come_back(n: int, levels: int) -> None:
    codes = draw(n, levels)
    symbols, counts = reference.join(codes, levels)
    again, counted = compiled.join(codes.astype(np.uint8), levels)
    assert symbols.size == reference.symbols_of(n, levels)
    assert np.array_equal(symbols, again)
    assert np.array_equal(counts, counted)
    assert np.array_equal(counts, np.bincount(symbols, minlength=256))
    for kernel in (reference, compiled):
        assert np.array_equal(kernel.split(symbols, n, levels), codes)


@BOTH
def test_blocks_are_planar(kernel: ModuleType) -> None:
    codes = draw(2 * 1280 + 7, 3)
    symbols, _ = kernel.join(codes, 3)
    first = codes[:1280].reshape(5, 256)
    assert np.array_equal(symbols[:256], (first * 3 ** np.arange(5)[:, None]).sum(axis=0))
    # seven codes are left: H = 2 symbols; the first joins codes 0, 2, 4, 6 and the second 1, 3, 5
    last = codes[2560:].tolist()
    assert symbols[512:].tolist() == [
        last[0] + 3 * last[2] + 9 * last[4] + 27 * last[6],
        last[1] + 3 * last[3] + 9 * last[5],
    ]


@BOTH
@pytest.mark.parametrize("n", [3, 5000])
def test_codes_out_of_range_and_padding_are_refused(kernel: ModuleType, n: int) -> None:
    codes = np.zeros(n, np.uint32)
    codes[n // 2] = 3
    with pytest.raises(CodecError, match="a code is 3, not below 3 levels"):
        kernel.join(codes, 3)
    with pytest.raises(CodecError, match="padding is not zero"):
        kernel.split(np.full(1, 242, np.uint8), 3, 3)


def test_threads_change_nothing() -> None:
    codes = np.resize(draw(50_000, 3), jit.MANY + 77).astype(np.uint8)
    joined, counts = compiled.join(codes, 3)
    slow, counted = reference.join(codes, 3)
    assert np.array_equal(joined, slow)
    assert np.array_equal(counts, counted)
    assert np.array_equal(compiled.split(joined, codes.size, 3), codes)
