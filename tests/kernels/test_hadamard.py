from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest

from fedquant.kernels.compiled import hadamard as compiled
from fedquant.kernels.reference import hadamard as reference
from fedquant.kernels.reference import rng
from fedquant.keys import Key

SIGNS, DITHER = Key(8, stream=1), Key(8, stream=2)
both = pytest.mark.parametrize("kernel", [reference, compiled], ids=["reference", "compiled"])
FEW = [1, 2, 4, 8, 12, 16, 20, 24, 32, 48, 64, 100, 128, 192, 256, 332, 512]
# no prime power is near enough for Paley; Williamson's and later constructions are not built
MISSING = {
    92, 116, 156, 172, 184, 188, 232, 236, 260, 268, 292, 324, 356, 372, 376, 404, 412, 428, 436, 452, 472,
    476, 508,
}  # fmt: skip


def vector(n: int, scale: float = 1.0) -> np.ndarray:
    return (rng.uniform(Key(3), n) * np.float32(2) - np.float32(1)) * np.float32(scale)


def decoded(
    kernel: ModuleType, scales: np.ndarray, codes: np.ndarray, order: int, k: int, levels: int, alpha: float
) -> np.ndarray:
    out = np.empty(scales.size * order, np.float32)
    kernel.decode(scales, codes, out, order, k, levels, alpha, SIGNS, DITHER)
    return out


def test_every_multiple_of_4_but_those_that_paley_misses() -> None:
    assert set(reference.orders()) == {1, 2, *range(4, 513, 4)} - MISSING
    assert sorted(reference.orders()) == list(reference.orders())


def test_products_of_orders_are_orders() -> None:
    known = set(reference.orders())
    assert {a * b for a in known for b in known if a * b <= 512} == known


@pytest.mark.parametrize("order", reference.orders())
def test_rows_are_orthogonal(order: int) -> None:
    h = reference.matrix(order)
    assert set(np.unique(h).tolist()) <= {-1.0, 1.0}
    assert np.array_equal(h @ h.T, order * np.eye(order))


@pytest.mark.parametrize("order", [-4, 0, 3, 6, 92, 516, 1024])
def test_other_orders_are_refused(order: int) -> None:
    with pytest.raises(ValueError, match=f"no construction of order {order}"):
        reference.matrix(order)


def test_the_smallest_order_that_holds() -> None:
    assert [reference.at_least(n) for n in (1, 2, 3, 5, 9, 89, 256, 257, 512)] == [
        1, 2, 4, 8, 12, 96, 256, 264, 512,
    ]  # fmt: skip


@both
@pytest.mark.parametrize("order", reference.orders())
def test_transforms_equal_products(kernel: ModuleType, order: int) -> None:
    x = rng.integers(Key(4), 3 * order, 201).reshape(3, order).astype(np.float32) - 100  # sums are exact
    h = reference.matrix(order)
    assert np.array_equal(kernel.transform(x), x @ h.T)
    assert np.array_equal(kernel.transform(x, transpose=True), x @ h)


@pytest.mark.parametrize("order", FEW)
def test_compiled_transforms_give_the_same_bits(order: int) -> None:
    x = vector(5 * order).reshape(5, order)
    for transpose in (False, True):
        one, other = reference.transform(x, transpose), compiled.transform(x, transpose)
        assert np.array_equal(one.view(np.uint32), other.view(np.uint32))


@pytest.mark.parametrize("order", FEW)
@pytest.mark.parametrize("scale", [1.0, 1e-44, 1e-30, 1e33])
@pytest.mark.parametrize("levels", [2, 3, 16, 256])
def test_compiled_codes_give_the_same_bits(order: int, scale: float, levels: int) -> None:
    x = vector(35 * order, scale)
    x[:order] = 0
    for k in {1, 2, order // 3, order - 1, order} & set(range(1, order + 1)):
        for short in (False, True):
            one = reference.encode(x, order, k, levels, SIGNS, DITHER, short)
            other = compiled.encode(x, order, k, levels, SIGNS, DITHER, short)
            assert np.array_equal(one[0], other[0])
            assert np.array_equal(one[1], other[1])
            assert one[1].dtype == other[1].dtype == np.uint8
            here = decoded(reference, *one, order, k, levels, 0.7)
            there = decoded(compiled, *one, order, k, levels, 0.7)
            assert np.array_equal(here.view(np.uint32), there.view(np.uint32))


def test_threads_give_the_same_bits() -> None:
    x = vector(1 << 20)  # enough for every thread there is
    one = reference.encode(x, 256, 200, 3, SIGNS, DITHER)
    other = compiled.encode(x, 256, 200, 3, SIGNS, DITHER)
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], other[1])
    here = decoded(reference, *one, 256, 200, 3, 1.0)
    assert np.array_equal(here, decoded(compiled, *one, 256, 200, 3, 1.0))
    rows = x.reshape(-1, 256)
    assert np.array_equal(reference.transform(rows), compiled.transform(rows))


@both
@pytest.mark.parametrize(("order", "k", "levels"), [(12, 12, 3), (16, 7, 2), (20, 9, 6), (32, 1, 2)])
def test_codes_follow_the_formulas(kernel: ModuleType, order: int, k: int, levels: int) -> None:
    rows = 40
    x = vector(rows * order)
    scales, codes = kernel.encode(x, order, k, levels, SIGNS, DITHER)
    words, half = rng.uint32(SIGNS, 2 * order).tolist(), -(-k // 2)
    draws, h = rng.uint32(DITHER, rows * half).tolist(), reference.matrix(order)[:k]
    q = (levels - 1) / 2 if k > 1 else 1.0
    back = decoded(kernel, scales, codes, order, k, levels, 1.0).reshape(rows, order)
    for p in range(rows):
        r = np.array([1 - 2 * (words[p // 32 * order + j] >> p % 32 & 1) for j in range(order)])
        v = h @ (r * x[p * order : (p + 1) * order].astype(float)) / math.sqrt(k)
        exact = np.abs(v).max() / q
        assert exact * (1 - 1e-6) <= scales[p] <= exact * (1 + 1e-6)
        code = codes[p * k : (p + 1) * k].astype(float)
        if k == 1:
            values = scales[p] * (2 * code - 1)
            assert code.tolist() == (v >= 0).tolist()
        else:
            parts = [draws[p * half + j % half] >> 16 * (j // half) & 0xFFFF for j in range(k)]
            u = (np.array(parts) + 0.5) / 65536 - 0.5
            # ⌊·⌉ of a number that is not within float32 error of a half
            wanted = v / float(scales[p]) + u + q + 0.5
            clear = np.abs(wanted - np.round(wanted)) > 1e-4
            assert np.array_equal(code[clear], np.floor(wanted[clear]).clip(0, levels - 1))
            assert clear.mean() > 0.5
            values = scales[p] * (code - q - u)
            assert np.abs(values - v).max() <= scales[p] * (0.5 + 1e-4)
        expected = r * (h.T @ values) / math.sqrt(k)
        assert np.abs(back[p] - expected).max() <= 1e-5 * np.abs(expected).max()


def test_scales_are_rounded_up() -> None:
    exact = np.array([0.0, 1.0, 1 + 2.0**-40, 1e-50, 3.0, 1e300])
    up = reference.round_up(exact, short=False)
    assert up.tolist() == [0.0, 1.0, 1 + 2.0**-23, 2.0**-149, 3.0, np.inf]
    short = reference.round_up(np.array([0.0, 1.0, 1 + 2.0**-40, 257 / 256]), short=True)
    assert short.tolist() == [0.0, 1.0, 1 + 2.0**-7, 1 + 2.0**-7]


@both
def test_nothing_is_nothing(kernel: ModuleType) -> None:
    scales, codes = kernel.encode(np.zeros(0, np.float32), 8, 4, 3, SIGNS, DITHER)
    assert scales.size == codes.size == decoded(kernel, scales, codes, 8, 4, 3, 1.0).size == 0
    assert kernel.transform(np.zeros((0, 8), np.float32)).shape == (0, 8)
