"""Codes to symbols in [0, 256), as many codes a symbol as fit.

t = `digits_per_symbol(levels)` codes make one symbol, the first the least significant digit. Codes go in
blocks of 256·t; symbol j of a block joins codes j, j+H, j+2H, … with H = 256. The last block of r codes has
H = ⌈r/t⌉; missing codes are 0.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedquant.errors import CodecError

Codes = npt.NDArray[Any]
Symbols = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

PLANE: Final = 256  # symbols a block


@lru_cache(maxsize=256)
def digits_per_symbol(levels: int) -> int:
    """The largest t with levels**t ≤ 256."""
    t = 1
    while levels ** (t + 1) <= 256:
        t += 1
    return t


def symbols_of(n: int, levels: int) -> int:
    """How many symbols n codes make."""
    return -(-n // digits_per_symbol(levels))


def join(codes: Codes, levels: int) -> tuple[Symbols, Counts]:
    """(uint8[m], how often each of 256 symbols occurs) of codes: uint[n], levels ≤ 256.

    Raises CodecError for a code that is not below `levels`.
    """
    check_codes(int(codes.max(initial=0)), levels)
    t = digits_per_symbol(levels)
    full = codes.size - codes.size % (PLANE * t)
    height = symbols_of(codes.size - full, levels)
    tail = np.zeros(t * height, np.uint8)
    tail[: codes.size - full] = codes[full:]
    blocks = (codes[:full].astype(np.uint8).reshape(-1, t, PLANE), tail.reshape(1, t, height))
    symbols = np.concatenate([_horner(planes, levels).reshape(-1) for planes in blocks])
    return symbols, np.bincount(symbols, minlength=256)


def check_codes(top: int, levels: int) -> None:
    """Raises CodecError for a largest code that is not below `levels`."""
    if top >= levels:
        raise CodecError(f"symbols: a code is {top}, not below {levels} levels")


def _horner(planes: Symbols, levels: int) -> Symbols:
    out = planes[:, -1].copy()
    for i in range(planes.shape[1] - 2, -1, -1):
        out = out * np.uint8(levels) + planes[:, i]
    return out


def split(symbols: Symbols, n: int, levels: int) -> U32:
    """uint32[n]: the codes of symbols below levels**t. Raises CodecError where a missing code is not 0."""
    t = digits_per_symbol(levels)
    blocks = n // (PLANE * t)
    head = _digits(symbols[: blocks * PLANE].reshape(blocks, PLANE), levels, t)
    tail = _digits(symbols[blocks * PLANE :].reshape(1, -1), levels, t)
    rest = n - head.size
    if tail[rest:].any():
        raise CodecError("symbols: padding is not zero")
    return np.concatenate([head, tail[:rest]])


def _digits(rows: Symbols, levels: int, t: int) -> U32:
    out = np.empty((rows.shape[0], t, rows.shape[1]), np.uint32)
    rest = rows.astype(np.uint32)
    for i in range(t):
        out[:, i] = rest % levels
        rest //= np.uint32(levels)
    return out.reshape(-1)
