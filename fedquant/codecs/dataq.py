"""DataQ: quantized samples instead of gradients (DaQuSGD, Section III).

Body: mode byte, how many samples, then for mode 0: float32 scale B, the codes in mixed radix, the labels.
Mode byte: low 4 bits the coding (0 fixed-length radix; 1 entropy-coded and 2 ℓ₂ are reserved); bit 4 is
set when the batch holds no negative number, so that codes are the levels 0…m−1 alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal, final

import numpy as np
from pydantic import Field

from fedquant.codecs.configured import ENCODER_ONLY
from fedquant.codecs.counts import count_size, pack_count, unpack_count
from fedquant.codecs.data import Array, DataCodec, DataSpec
from fedquant.codecs.labels import labels_size, pack_labels, unpack_labels
from fedquant.errors import CodecError
from fedquant.kernels import pack, quantize, scan
from fedquant.keys import Key
from fedquant.wire import Knobs

_STORED: Final = 0
_UNSIGNED: Final = 0x10


@final
@dataclass(frozen=True)
class DataQ(DataCodec):
    """m levels a sign on the grid B·i/(m−1), B the batch's largest magnitude (scale: max).

    rate: at most log2(2m−1) bit a number, log2 m where no number is negative.
    """

    name: ClassVar[str] = "dataq"

    m: Annotated[int, Field(ge=2, le=1 << 16)] = 8
    scale: Literal["max"] = "max"
    rounding: Annotated[Literal["floor", "nearest", "stochastic"], Field()] = field(
        default="floor", metadata=ENCODER_ONLY
    )

    def _encode_body(self, x: Array, labels: Array, spec: DataSpec, key: Key, knobs: Knobs) -> bytes:
        flat, s = x.reshape(-1), self.m - 1
        unsigned = flat.size == 0 or bool(flat.min() >= 0)
        scale = np.float32(scan.max_abs(flat))
        if scale > 0:
            codes = quantize.to_levels(flat, float(scale), s, self.rounding, key)
            packed = pack.pack_radix(codes - s if unsigned else codes, self._alphabet(unsigned))
        else:
            packed = b""
        mode = _STORED | (_UNSIGNED if unsigned else 0)
        head = bytes([mode]) + pack_count(len(x), spec.max_samples) + struct.pack("<f", scale)
        return head + packed + pack_labels(labels, spec)

    def _alphabet(self, unsigned: bool) -> int:
        return self.m if unsigned else 2 * self.m - 1

    def _decode_body(self, data: bytes, spec: DataSpec, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        start = 1 + count_size(spec.max_samples) + 4
        if len(data) < start:
            raise CodecError(f"dataq: body of {len(data)} bytes, its head alone takes {start}")
        mode, n = data[0], unpack_count(data, 1, spec.max_samples, self.name)
        if mode & ~_UNSIGNED != _STORED:
            raise CodecError(f"dataq: mode {mode:#04x} is not known to this version")
        scale = np.frombuffer(data, "<f4", 1, offset=start - 4)[0]
        if not (np.isfinite(scale) and scale >= 0):
            raise CodecError(f"dataq: scale {scale} is negative or not finite")
        unsigned, s, size = bool(mode & _UNSIGNED), self.m - 1, n * spec.size
        alphabet = self._alphabet(unsigned)
        end = start + (pack.radix_size(size, alphabet) if scale > 0 else 0)
        if len(data) != end + labels_size(n, spec):
            raise CodecError(
                f"dataq: body of {len(data)} bytes, {n} samples take {end + labels_size(n, spec)}"
            )
        x = np.zeros(size, np.float32)
        if scale > 0:
            codes = pack.unpack_radix(data[start:end], size, alphabet)
            x = quantize.from_levels(codes + s if unsigned else codes, float(scale), s)
        return x.reshape(n, spec.size), unpack_labels(data[end:], n, spec)
