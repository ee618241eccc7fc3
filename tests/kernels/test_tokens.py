from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.errors import CodecError
from fedquant.kernels.compiled import tokens as compiled
from fedquant.kernels.reference import tokens as reference

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
BOTH = pytest.mark.parametrize("kernel", [reference, compiled], ids=["reference", "compiled"])
EDGES = [0, 1, -1, 63, 64, -64, -65, 127, 128, 2**20, -(2**20), 2**31 - 1, -(2**31) + 1]


@QUICK
@given(
    st.lists(st.sampled_from(EDGES) | st.integers(-(2**31) + 1, 2**31 - 1), max_size=60), st.integers(3, 7)
)
def test_integers_come_back(values: list[int], k: int) -> None:
    given_ = np.array(values, np.int64)
    tokens, raw = reference.tokenize(given_, k)
    again, bits = compiled.tokenize(given_, k)
    assert np.array_equal(tokens, again)
    assert raw == bits
    assert tokens.max(initial=0) < reference.token_limit(k)
    assert len(raw) == -(-int(reference.raw_bits(k)[tokens].sum()) // 8)
    for kernel in (reference, compiled):
        assert kernel.detokenize(tokens, raw, k).tolist() == values
        counts = kernel.token_counts(given_)
        assert np.array_equal(counts, np.bincount(kernel.tokenize(given_, 7)[0], minlength=256))


@BOTH
def test_tokens_are_the_documented_ones(kernel: ModuleType) -> None:
    # k = 3: u = 2·50 = 100 = 0b1_10_0100, e = 6: token 8 + 4·3 + 2, raw bits 0100; −3 is u = 5
    tokens, raw = kernel.tokenize(np.array([50, -3, 50], np.int32), 3)
    assert tokens.tolist() == [22, 5, 22]
    assert raw == bytes([0b0100_0100])
    assert kernel.raw_bits(3)[22] == 4


@BOTH
@pytest.mark.parametrize("value", [2**31, -(2**31), 2**62])
def test_large_integers_are_refused(kernel: ModuleType, value: int) -> None:
    with pytest.raises(CodecError, match=r"every \|v\| must be below 2\*\*31"):
        kernel.token_counts(np.array([0, value]))


@BOTH
def test_bad_raw_sections_are_refused(kernel: ModuleType) -> None:
    tokens, raw = kernel.tokenize(np.array([50, 50, 50]), 3)  # 12 bits
    for bad in (raw[:-1], b"", raw + b"\0"):
        with pytest.raises(CodecError, match="raw section"):
            kernel.detokenize(tokens, bad, 3)
    with pytest.raises(CodecError, match="padding is not zero"):
        kernel.detokenize(tokens, raw[:-1] + bytes([raw[-1] | 0x80]), 3)
    top = np.array([kernel.token_limit(3) - 1], np.uint8)
    with pytest.raises(CodecError, match=r"-2\*\*31 is not coded"):
        kernel.detokenize(top, b"\xff\xff\xff\x1f", 3)
    assert kernel.detokenize(top, b"\xfe\xff\xff\x1f", 3).tolist() == [2**31 - 1]
