"""Groups rounded at random, without bias, to the levels scale·{−s…s}/s: the body of QSGD and TernGrad.

Body: a float32 scale a group, then the codes of each group whose scale is not zero: planar in `bits` bits
where these are given, mixed radix of 2s+1 levels otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedquant.codecs.base import Array
from fedquant.codecs.groups import pack_scales, unpack_scales
from fedquant.errors import CodecError
from fedquant.kernels import pack, quantize
from fedquant.keys import Key

Cuts = Sequence[tuple[int, int]]


def encode_groups(
    x: Array, cuts: Cuts, scales: Sequence[np.float32], s: int, key: Key, bits: int | None = None
) -> bytes:
    """The body of x: float32[size], cut at `cuts`, where no |x| of a group exceeds its scale."""
    bodies = []
    for (start, stop), scale in zip(cuts, scales, strict=True):
        if scale > 0:
            codes = quantize.to_levels(x[start:stop], float(scale), s, "stochastic", key, start)
            bodies.append(pack.pack_radix(codes, 2 * s + 1) if bits is None else pack.pack_bits(codes, bits))
    return pack_scales(scales) + b"".join(bodies)


def decode_groups(data: bytes, size: int, cuts: Cuts, s: int, name: str, bits: int | None = None) -> Array:
    """float32[size] of a body. Raises CodecError, in the name of codec `name`, for a bad one."""
    scales = unpack_scales(data, len(cuts), name)
    at = 4 * len(cuts)
    out = np.zeros(size, np.float32)
    for (start, stop), scale in zip(cuts, scales, strict=True):
        if scale == 0:
            continue
        n = stop - start
        taken = pack.radix_size(n, 2 * s + 1) if bits is None else pack.bits_size(n, bits)
        part = data[at : at + taken]
        at += taken
        codes = pack.unpack_radix(part, n, 2 * s + 1) if bits is None else pack.unpack_bits(part, n, bits)
        if bits is not None and codes.max() > 2 * s:
            raise CodecError(f"{name}: a code is above 2s = {2 * s}")
        out[start:stop] = quantize.from_levels(codes, float(scale), s)
    if at != len(data):
        raise CodecError(f"{name}: body of {len(data)} bytes, expected {at}")
    return out
