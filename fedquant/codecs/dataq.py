"""DataQ: quantized samples instead of gradients (DaQuSGD, Sections IV and VI).

Body: mode byte; how many samples; the scales B as float32, one (max) or one a sample (l2); the levels of
the samples whose scale is not 0; the labels.

Mode byte: low 4 bits, how levels c of at most s = m − 1 are coded, as c + s:
    0   max: mixed radix. l2: an index a sample (see `lattice`), or mixed radix where that is no longer
    1   entropy-coded, sample by sample
    2   entropy-coded, channel by channel: a channel is what shares its place along a sample's first axis
    3   the same for the last axis
    4   the same for each place of a sample
Bit 4: no level of the batch is negative, and c itself is coded. Bits 5 and 6, l2 only: the rounding
(0 floor, 1 nearest, 2 stochastic), on which it depends what vectors an index can say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal, final

import numpy as np
from pydantic import Field

from fedquant import wire
from fedquant.codecs import entropy, lattice
from fedquant.codecs.clusters import MAX_SEGMENTS
from fedquant.codecs.configured import ENCODER_ONLY
from fedquant.codecs.counts import count_size, pack_count, unpack_count
from fedquant.codecs.data import Array, DataCodec, DataSpec
from fedquant.codecs.grid import Quantized, l2_levels, l2_scale
from fedquant.codecs.groups import pack_scales, unpack_scales
from fedquant.codecs.labels import labels_size, pack_labels, unpack_labels
from fedquant.errors import CodecError
from fedquant.kernels import pack, quantize, rng, scan
from fedquant.keys import Key
from fedquant.wire import NO_KNOBS, Knobs

FIXED: Final = 0
ENTROPY: Final = 1
UNSIGNED: Final = 0x10
_FIRST_AXIS, _LAST_AXIS, _PLACES = 2, 3, 4
_FEW: Final = 64  # channels of an axis
_MANY: Final = MAX_SEGMENTS  # places of a sample
_WORTH: Final = 64  # codes a channel: with fewer its table is mostly chance
_ROUNDINGS: Final[tuple[quantize.Rounding, ...]] = ("floor", "nearest", "stochastic")


# ---- levels on the wire


def pack_levels(
    levels: Array,
    shape: Sequence[int],
    m: int,
    unsigned: bool,
    index: lattice.Index | None,
    adapt: bool = True,
) -> tuple[int, bytes]:
    """(coding, bytes) of int32[k, size], the shortest; without `adapt` always the fixed-length code."""
    if not levels.size:
        return FIXED, b""
    codes = (levels if unsigned else levels + np.int32(m - 1)).astype(quantize.code_type(m - 1))
    alphabet = _alphabet(m, unsigned)
    if index is None:
        best = FIXED, pack.pack_radix(codes.reshape(-1), alphabet)
    else:
        best = FIXED, lattice.pack_indices([index.rank(row) for row in levels], index.bits)
    for coding in (ENTROPY, _FIRST_AXIS, _LAST_AXIS, _PLACES) if adapt else ():
        channels = _channels(coding, shape)
        if not channels or (channels > 1 and levels.size < _WORTH * channels):
            continue
        data = entropy.pack(_by_channel(codes, coding, channels), alphabet, _ends(levels.size, channels))
        if len(data) < len(best[1]):
            best = coding, data
    return best


def unpack_levels(
    data: bytes,
    k: int,
    shape: Sequence[int],
    m: int,
    unsigned: bool,
    index: lattice.Index | None,
    coding: int,
) -> Array:
    """int32[k, size] of what `pack_levels` wrote. Raises CodecError for other bytes."""
    size = math.prod(shape)
    if not k * size:
        if data:
            raise CodecError(f"dataq: {len(data)} bytes of levels, expected none")
        return np.zeros((k, size), np.int32)
    if coding == FIXED and index is not None:
        indices = lattice.unpack_indices(data, k, index.bits, index.count)
        levels = np.stack([index.unrank(i) for i in indices]).astype(np.int32)
        if np.abs(levels).max() >= m:
            raise CodecError(f"dataq: a level is not below m = {m}")
        return levels
    alphabet = _alphabet(m, unsigned)
    if coding == FIXED:
        codes = pack.unpack_radix(data, k * size, alphabet)
    else:
        channels = _channels(coding, shape)
        if not channels:
            raise CodecError(f"dataq: coding {coding} is not one of samples of shape {list(shape)}")
        codes = entropy.unpack(data, k * size, alphabet, _ends(k * size, channels))
        if coding == _FIRST_AXIS:
            codes = codes.reshape(channels, k, -1).swapaxes(0, 1)
        else:
            codes = codes.reshape(channels, -1).T
    return codes.reshape(k, size).astype(np.int32) - np.int32(0 if unsigned else m - 1)


def _alphabet(m: int, unsigned: bool) -> int:
    return m if unsigned else 2 * m - 1


def _channels(coding: int, shape: Sequence[int]) -> int:
    """How many channels a coding cuts samples into; 0 where it does not exist."""
    if coding == ENTROPY:
        return 1
    channels = {_FIRST_AXIS: shape[:-1][:1], _LAST_AXIS: shape[1:][-1:], _PLACES: (math.prod(shape),)}.get(
        coding, ()
    )
    return next((c for c in channels if 1 < c <= (_MANY if coding == _PLACES else _FEW)), 0)


def _by_channel(codes: Array, coding: int, channels: int) -> Array:
    if coding == _FIRST_AXIS:
        return codes.reshape(len(codes), channels, -1).swapaxes(0, 1).reshape(-1)
    return codes.reshape(-1, channels).T.reshape(-1)


def _ends(size: int, channels: int) -> list[int]:
    return [size // channels * (i + 1) for i in range(channels)]


# ---- the codec


@final
@dataclass(frozen=True)
class DataQ(DataCodec):
    """m levels a sign on the grid B·i/(m−1).

    scale: "max", B is the batch's largest magnitude; at most log2(2m−1) bit a number, log2 m where none is
    negative. "l2", B = ‖z‖₂ of each sample: few levels differ from 0, and a sample may take one short index.
    code: "auto", the shortest of all codes; "fixed" (with max), mixed radix alone, many times as fast;
    "simplex" (with l2), always the paper's index of ⌈log2 |S|⌉ bits.
    """

    name: ClassVar[str] = "dataq"

    m: Annotated[int, Field(ge=2, le=1 << 16)] = 8
    scale: Literal["max", "l2"] = "max"
    rounding: Annotated[Literal["floor", "nearest", "stochastic"], Field()] = field(
        default="floor", metadata=ENCODER_ONLY
    )
    code: Literal["auto", "fixed", "simplex"] = "auto"

    def __post_init__(self) -> None:
        if self.code == "simplex" and self.scale != "l2":
            raise ValueError("dataq: code simplex numbers vectors of known l2 norm; set scale: l2")
        if self.code == "fixed" and self.scale != "max":
            raise ValueError("dataq: code fixed is for scale: max; with l2 write auto or simplex")

    def decode_levels(
        self, payload: bytes, spec: DataSpec, key: Key, knobs: Knobs = NO_KNOBS
    ) -> tuple[Quantized, Array]:
        """(samples on their grids, labels) of a payload: for refinement and correction. Raises CodecError."""
        return self._read(wire.unframe(payload, self.context(spec, key, knobs)), spec)

    def _index(self, size: int, rounding: quantize.Rounding, unsigned: bool) -> lattice.Index | None:
        if self.scale == "max" or size == 0:
            return None
        if self.code == "simplex":
            return lattice.simplex(size, self.m, rounding)
        return lattice.shortest(size, self.m, rounding, not unsigned)

    def _encode_body(self, x: Array, labels: Array, spec: DataSpec, key: Key, knobs: Knobs) -> bytes:
        s = self.m - 1
        if self.code == "fixed":
            return self._encode_fixed(x, spec, key) + pack_labels(labels, spec)
        if self.scale == "max":
            mode, scales = 0, np.array([scan.max_abs(x.reshape(-1))], np.float32)
            live = np.repeat(scales > 0, len(x))
            levels = np.zeros(x.shape, np.int32)
            if scales[0] > 0:
                codes = quantize.to_levels(x.reshape(-1), float(scales[0]), s, self.rounding, key)
                levels = codes.astype(np.int32).reshape(x.shape) - np.int32(s)
        else:
            mode = _ROUNDINGS.index(self.rounding) << 5
            scales = np.array([l2_scale(row, self.name) for row in x], np.float32)
            live = scales > 0
            draws = rng.uniform(key, x.size).reshape(x.shape) if self.rounding == "stochastic" else None
            levels = l2_levels(x, scales, s, self.rounding, draws)
        adapt = self.code == "auto"
        unsigned = adapt and bool(levels.min(initial=0) >= 0)
        index = self._index(spec.size, self.rounding, unsigned)
        coding, data = pack_levels(levels[live], spec.shape, self.m, unsigned, index, adapt)
        mode |= coding | (UNSIGNED if unsigned else 0)
        head = bytes([mode]) + pack_count(len(x), spec.max_samples) + pack_scales(list(scales))
        return head + data + pack_labels(labels, spec)

    def _encode_fixed(self, x: Array, spec: DataSpec, key: Key) -> bytes:
        """Straight from numbers to codes to bytes."""
        flat, s = x.reshape(-1), self.m - 1
        unsigned = bool(flat.min(initial=0) >= 0)
        scale, data = np.float32(scan.max_abs(flat)), b""
        if scale > 0:
            codes = quantize.to_levels(flat, float(scale), s, self.rounding, key)
            if unsigned:
                codes -= s
            data = pack.pack_radix(codes, _alphabet(self.m, unsigned))
        mode = FIXED | (UNSIGNED if unsigned else 0)
        return bytes([mode]) + pack_count(len(x), spec.max_samples) + pack_scales([scale]) + data

    def _decode_body(self, data: bytes, spec: DataSpec, key: Key, knobs: Knobs) -> tuple[Array, Array]:
        if self.scale == "max" and data[:1] == bytes([FIXED]):
            return self._decode_fixed(data, spec)
        quantized, labels = self._read(data, spec)
        return quantized.samples(), labels

    def _decode_fixed(self, data: bytes, spec: DataSpec) -> tuple[Array, Array]:
        """What `_read` says of signed levels in radix, straight from bytes to codes to numbers."""
        n = unpack_count(data, 1, spec.max_samples, self.name)
        at, end = 1 + count_size(spec.max_samples), len(data) - labels_size(n, spec)
        scale = unpack_scales(data[at:], 1, self.name)[0]
        if end < at + 4:
            raise CodecError(f"dataq: body of {len(data)} bytes is too short for {n} samples")
        x, s = np.zeros(n * spec.size, np.float32), self.m - 1
        if scale > 0 and x.size:
            x = quantize.from_levels(
                pack.unpack_radix(data[at + 4 : end], x.size, 2 * s + 1), float(scale), s
            )
        elif end != at + 4:
            raise CodecError(f"dataq: {end - at - 4} bytes of levels, expected none")
        return x.reshape(n, spec.size), unpack_labels(data[end:], n, spec)

    def _read(self, data: bytes, spec: DataSpec) -> tuple[Quantized, Array]:
        at = 1 + count_size(spec.max_samples)
        if len(data) < at:
            raise CodecError(f"dataq: body of {len(data)} bytes, its head alone takes {at}")
        mode, n = data[0], unpack_count(data, 1, spec.max_samples, self.name)
        coding, unsigned, rounding = mode & 0x0F, bool(mode & UNSIGNED), mode >> 5
        fixed_only = (self.code == "simplex" and unsigned) or (self.code != "auto" and coding != FIXED)
        if coding > _PLACES or fixed_only or rounding >= (len(_ROUNDINGS) if self.scale == "l2" else 1):
            raise CodecError(
                f"dataq: mode {mode:#04x} is not known to this version, or not of this configuration"
            )
        k = n if self.scale == "l2" else 1
        scales = unpack_scales(data[at:], k, self.name)
        at, end = at + 4 * k, len(data) - labels_size(n, spec)
        if end < at:
            raise CodecError(f"dataq: body of {len(data)} bytes is too short for {n} samples")
        if self.scale == "max":
            scales = np.repeat(scales, n)
        live, levels = scales > 0, np.zeros((n, spec.size), np.int32)
        index = self._index(spec.size, _ROUNDINGS[rounding], unsigned) if live.any() else None
        levels[live] = unpack_levels(
            data[at:end], int(live.sum()), spec.shape, self.m, unsigned, index, coding
        )
        return Quantized(levels, scales, self.m, self.scale), unpack_labels(data[end:], n, spec)
