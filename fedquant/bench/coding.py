"""The entropy coder on codes of few levels; beside it zstd and `constriction`, where installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedquant.bench.tensor import F32
from fedquant.bench.timing import Memcpy, Operation, Timing, compare, thread_counts
from fedquant.codecs import entropy
from fedquant.codecs.base import Spec
from fedquant.codecs.groups import groups
from fedquant.kernels import quantize, scan
from fedquant.keys import Key

Codes = npt.NDArray[np.uint8]
Coder = Callable[[Codes, int], tuple[int, Operation, Operation]]
"""(codes, levels) to (bytes, tables included; encode; decode). Raises ImportError."""

KEY: Final = Key(1)
LEVELS: Final = (3, 15)
OURS: Final = "fedquant"


@dataclass(frozen=True)
class CodingRow:
    """A coder: bits a symbol, the entropy of the symbols' frequencies, and its times, one a thread count."""

    coder: str
    levels: int
    symbols: int
    bits: float
    entropy: float
    encode: tuple[Timing, ...]
    decode: tuple[Timing, ...]

    @property
    def excess(self) -> float:
        """Bits above the entropy, as a share of it."""
        return self.bits / self.entropy - 1


def measure(
    x: F32, spec: Spec, budget: float, progress: Callable[[str], None]
) -> tuple[list[CodingRow], dict[str, str]]:
    """(rows, why a coder is missing): codes are x: float32[size] rounded at random, a scale a layer."""
    rows, missing, memcpy = [], {}, Memcpy(x)
    for levels in LEVELS:
        codes = _codes(x, spec, levels)
        ideal = entropy_of(codes)
        for name, coder in _CODERS.items():
            progress(f"{name}, {levels} levels")
            try:
                size, encode, decode = coder(codes, levels)
            except ImportError as error:
                missing[name] = str(error)
                continue
            counts = thread_counts() if name == OURS else (1,)
            times = [
                tuple(compare(operation, memcpy, n, budget) for n in counts) for operation in (encode, decode)
            ]
            rows.append(CodingRow(name, levels, codes.size, 8 * size / codes.size, ideal, *times))
    return rows, missing


def entropy_of(codes: npt.NDArray[Any]) -> float:
    """bit/symbol of integers[n ≥ 1] that are drawn independently, as often as they are here."""
    counts = np.bincount(codes.astype(np.int64) - int(codes.min()))
    share = counts[counts > 0] / codes.size
    return float(-(share * np.log2(share)).sum())


def _codes(x: F32, spec: Spec, levels: int) -> Codes:
    codes, s = np.empty(x.size, np.uint8), levels // 2
    for start, stop in groups(spec, "segment"):
        part = x[start:stop]
        codes[start:stop] = quantize.to_levels(part, scan.max_abs(part), s, "stochastic", KEY, start)
    return codes


def _ours(codes: Codes, levels: int) -> tuple[int, Operation, Operation]:
    data = entropy.pack(codes, levels)
    return len(data), lambda: entropy.pack(codes, levels), lambda: entropy.unpack(data, codes.size, levels)


def _zstd(codes: Codes, levels: int) -> tuple[int, Operation, Operation]:
    zstandard = importlib.import_module("zstandard")
    coder, decoder = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
    data = coder.compress(codes)
    return len(data), lambda: coder.compress(codes), lambda: decoder.decompress(data)


def _constriction(codes: Codes, levels: int) -> tuple[int, Operation, Operation]:
    stream = importlib.import_module("constriction").stream
    wide, table = codes.astype(np.int32), np.bincount(codes, minlength=levels).astype(np.float32)
    model = stream.model.Categorical(table / table.sum(), perfect=False)

    def encode() -> npt.NDArray[np.uint32]:
        coder = stream.stack.AnsCoder()
        coder.encode_reverse(wide, model)
        words: npt.NDArray[np.uint32] = coder.get_compressed()
        return words

    data = encode()
    return data.nbytes + table.nbytes, encode, lambda: stream.stack.AnsCoder(data).decode(model, codes.size)


_CODERS: Final[dict[str, Coder]] = {
    OURS: _ours,
    "zstd level 3, a byte a code": _zstd,
    "constriction ANS": _constriction,
}
