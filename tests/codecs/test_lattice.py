from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.codecs import lattice
from fedquant.codecs.grid import l2_levels, l2_scale
from fedquant.codecs.lattice import Cells, Simplex, shortest, simplex, units, weights
from fedquant.errors import CodecError
from fedquant.kernels import rng
from fedquant.keys import Key

QUICK = settings(max_examples=60, deadline=None, derandomize=True)
ROUNDINGS = ("floor", "nearest", "stochastic")
roundings = st.sampled_from(ROUNDINGS)


def vectors(d: int, top: int, signed: bool = True) -> list[tuple[int, ...]]:
    return list(itertools.product(range(-top if signed else 0, top + 1), repeat=d))


def sample(d: int, seed: int) -> np.ndarray:
    """Dense for even seeds, a few large numbers for odd ones."""
    x = rng.uniform(Key(seed), d) * np.float32(2) - np.float32(1)
    return x if seed % 2 == 0 else x**9


def quantized(d: int, m: int, rounding: str, seed: int) -> np.ndarray:
    x = sample(d, seed)[np.newaxis]
    draws = rng.uniform(Key(seed, 1), d)[np.newaxis]
    scales = np.array([l2_scale(x[0], "test")])
    return l2_levels(x, scales, m - 1, rounding, draws)[0]  # type: ignore[arg-type]


def reference_rank(c: list[int], most: int) -> int:
    """The paper's set S, unit by unit."""
    i, rank = most - sum(c), 0
    for j, count in enumerate(c, 1):
        for _ in range(count):
            i += 1
            rank += math.comb(j + i - 1, i)
    return rank


# ---- S


@pytest.mark.parametrize(("n", "most"), [(1, 0), (1, 4), (2, 2), (3, 3), (4, 3), (3, 7), (6, 4)])
def test_simplex_numbers_every_vector_of_counts_once(n: int, most: int) -> None:
    code = Simplex(n, most, signed=False)
    expected = {c for c in vectors(n, most, signed=False) if sum(c) <= most}
    found = [tuple(code.unrank(i).tolist()) for i in range(code.count)]
    assert len(found) == len(expected) == math.comb(n + most, most)
    assert set(found) == expected
    assert [code.rank(np.array(c)) for c in found] == list(range(code.count))
    if most < n:
        assert [reference_rank(list(c), most) for c in found] == list(range(code.count))


@pytest.mark.parametrize(("d", "most"), [(1, 5), (2, 3), (3, 4)])
def test_simplex_of_signed_vectors(d: int, most: int) -> None:
    code = Simplex(d, most)
    for c in vectors(d, most):
        if sum(map(abs, c)) <= most:
            index = code.rank(np.array(c))
            assert 0 <= index < code.count == math.comb(2 * d + most, most)
            assert code.unrank(index).tolist() == list(c)
        else:
            with pytest.raises(CodecError, match="exceed"):
                code.rank(np.array(c))


# ---- cells


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize(("d", "m"), [(1, 2), (1, 5), (2, 4), (3, 3), (4, 2)])
@pytest.mark.parametrize("signed", [True, False])
def test_cells_number_every_vector_within_the_budget_once(
    d: int, m: int, rounding: str, signed: bool
) -> None:
    w, budget = weights(m, rounding)  # type: ignore[arg-type]
    code = Cells(d, w, budget, 8, signed)
    expected = {c for c in vectors(d, m - 1, signed) if sum(w[abs(x)] for x in c) <= budget}
    found = [tuple(code.unrank(i).tolist()) for i in range(code.count)]
    assert len(found) == len(expected)
    assert set(found) == expected
    assert [code.rank(np.array(c)) for c in found] == list(range(code.count))


def test_cells_refuse_what_they_do_not_number() -> None:
    code = Cells(3, *weights(4, "floor"), 8, signed=False)
    for c in ([2, 2, 2], [4, 0, 0], [-1, 0, 0]):
        with pytest.raises(CodecError, match="exceed"):
            code.rank(np.array(c))


@pytest.mark.parametrize(("d", "most"), [(1, 4), (5, 3), (8, 49), (64, 49)])
def test_counts_with_linear_weights_have_a_closed_form(d: int, most: int) -> None:
    linear = Cells(d, tuple(range(most + 1)), most, math.comb(2 * d + most, most).bit_length() // 8 + 1)
    closed = sum(math.comb(d, j) * 2**j * math.comb(most, j) for j in range(min(d, most) + 1))
    assert linear.count == closed


@QUICK
@given(st.integers(1, 60), st.integers(2, 12), roundings, st.integers(0, 1000))
def test_what_quantization_gives_has_an_index(d: int, m: int, rounding: str, seed: int) -> None:
    levels = quantized(d, m, rounding, seed)
    w, budget = weights(m, rounding)  # type: ignore[arg-type]
    outer = Simplex(d, units(d, m, rounding))  # type: ignore[arg-type]
    cells = Cells(d, w, budget, outer.bits // 8 + 1)
    assert cells.count <= outer.count
    for code in (outer, cells):
        index = code.rank(levels)
        assert 0 <= index < code.count <= 1 << code.bits
        assert code.unrank(index).tolist() == levels.tolist()
    positive = Simplex(d, outer.units, signed=False)
    assert positive.unrank(positive.rank(np.abs(levels))).tolist() == np.abs(levels).tolist()


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_no_vector_less_could_be_numbered(rounding: str) -> None:
    """Each cell holds a point of the ball: its own, nearest to 0, moved inside."""
    m, (w, budget) = 4, weights(4, rounding)  # type: ignore[arg-type]
    for c in vectors(3, m - 1):
        if sum(w[abs(k)] for k in c) > budget:
            continue
        inner = {"floor": 0.0, "nearest": 0.5, "stochastic": 1.0}[rounding]
        t = np.maximum(np.abs(np.array(c, float)) - inner, 0)
        assert (t**2).sum() <= (m - 1) ** 2


# ---- the choice


def test_bits_at_eight_levels() -> None:
    for d, s, linear, tight in ((3072, 409, 409, 408), (64, 147, 138, 116), (8, 50, 38, 25)):
        assert simplex(d, 8, "floor").bits == s
        count = sum(math.comb(d, j) * 2**j * math.comb(49, j) for j in range(min(d, 49) + 1))
        assert (count - 1).bit_length() == linear
        code = shortest(d, 8, "floor", True)
        assert isinstance(code, Cells)
        assert code.bits == tight


def test_plain_radix_where_no_index_is_shorter() -> None:
    assert Simplex(8, 49).bits > (15**8 - 1).bit_length() == 32
    assert shortest(1, 8, "floor", True) is None  # 15 levels either way
    assert shortest(5, 65536, "floor", True) is None  # no table, and S would take longer
    assert shortest(150528, 8, "floor", True) is None  # no table, and S takes too long to walk


def test_s_is_taken_where_the_table_would_be_too_large() -> None:
    code = shortest(600, 16, "floor", True)
    assert isinstance(code, Simplex)
    assert code.bits == 892


@QUICK
@given(st.integers(1, 400), st.integers(2, 300), roundings, st.booleans())
def test_the_choice_is_never_longer_than_radix_or_s(d: int, m: int, rounding: str, signed: bool) -> None:
    code = shortest(d, m, rounding, signed)  # type: ignore[arg-type]
    if code is not None:
        assert code.bits < (((2 * m - 1 if signed else m) ** d) - 1).bit_length()
        assert code.bits <= Simplex(d, units(d, m, rounding), signed).bits  # type: ignore[arg-type]


def test_indices_of_s_that_would_take_minutes_are_refused() -> None:
    with pytest.raises(CodecError, match="too long for d=3072 and m=65536; use code: auto"):
        simplex(3072, 65536, "floor")


# ---- bytes


@QUICK
@given(st.integers(0, 30), st.integers(0, 70), st.integers(0, 99))
def test_indices_take_their_bits_and_no_more(n: int, bits: int, seed: int) -> None:
    draws = [int(x) << 64 | int(x) << 31 for x in rng.uint32(Key(seed), n)]
    indices = [x % (1 << bits) for x in draws]
    data = lattice.pack_indices(indices, bits)
    assert len(data) == -(-n * bits // 8)
    assert lattice.unpack_indices(data, n, bits, 1 << bits) == indices
    if bits:
        whole = sum(index << bits * i for i, index in enumerate(indices))
        assert int.from_bytes(data, "little") == whole


def test_indices_that_are_not_canonical_are_refused() -> None:
    data = lattice.pack_indices([5, 6, 2], 3)
    assert lattice.unpack_indices(data, 3, 3, 7) == [5, 6, 2]
    with pytest.raises(CodecError, match="not below 6"):
        lattice.unpack_indices(data, 3, 3, 6)
    with pytest.raises(CodecError, match="padding"):
        lattice.unpack_indices(bytes([data[0], data[1] | 0x80]), 3, 3, 7)
    for other in (b"", data[:1], data + b"\0"):
        with pytest.raises(CodecError, match="3 indices of 3 bits take 2"):
            lattice.unpack_indices(other, 3, 3, 7)
