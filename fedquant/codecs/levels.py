"""Groups rounded at random, without bias, to the levels scale·{−s…s}/s: the body of QSGD and TernGrad.

Body: a float32 scale a group, then the codes of each group whose scale is not zero: planar in `bits` bits
where these are given, mixed radix of 2s+1 levels otherwise. Entropy-coded, it is the scales and `entropy`
of all codes, where numbers of a group whose scale is zero have code s; tables are shared by segments.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedquant.codecs import entropy
from fedquant.codecs.base import Array, Sent, Spec
from fedquant.codecs.groups import pack_scales, unpack_scales
from fedquant.errors import CodecError
from fedquant.kernels import fused, pack, quantize
from fedquant.keys import Key

Cuts = Sequence[tuple[int, int]]


def encode_groups(
    x: Array, cuts: Cuts, scales: Sequence[np.float32], s: int, key: Key, bits: int | None = None
) -> bytes:
    """The body of x: float32[size], cut at `cuts`, where no |x| of a group exceeds its scale."""
    bodies: list[bytes | memoryview] = [pack_scales(scales)]
    for (start, stop), scale in zip(cuts, scales, strict=True):
        if scale == 0:
            continue
        group = x[start:stop]
        if bits is None:
            codes = quantize.to_levels(group, float(scale), s, "stochastic", key, start)
            bodies.append(pack.pack_radix(codes, 2 * s + 1))
        else:
            bodies.append(fused.quantize_bits(group, float(scale), s, bits, "stochastic", key, start))
    return b"".join(bodies)


def decode_groups(data: bytes, size: int, cuts: Cuts, s: int, name: str, bits: int | None = None) -> Array:
    """float32[size] of a body. Raises CodecError, in the name of codec `name`, for a bad one."""
    out = np.zeros(size, np.float32)
    for (start, stop), scale, part in _parts(data, cuts, s, name, bits):
        if bits is None:
            codes = pack.unpack_radix(bytes(part), stop - start, 2 * s + 1)
            out[start:stop] = quantize.from_levels(codes, float(scale), s)
        else:
            fused.dequantize_bits(part, stop - start, float(scale), s, bits, out[start:stop])
    return out


def encode_coded(x: Array, spec: Spec, cuts: Cuts, scales: Sequence[np.float32], s: int, key: Key) -> bytes:
    """The entropy-coded body of x: float32[size]."""
    codes = np.full(spec.size, s, quantize.code_type(s))
    for (start, stop), scale in zip(cuts, scales, strict=True):
        if scale > 0:
            codes[start:stop] = quantize.to_levels(x[start:stop], float(scale), s, "stochastic", key, start)
    return pack_scales(scales) + entropy.pack(codes, 2 * s + 1, spec.segments)


def decode_coded(data: bytes, spec: Spec, cuts: Cuts, s: int, name: str) -> Array:
    """float32[size] of an entropy-coded body. Raises CodecError for a bad one."""
    scales = unpack_scales(data, len(cuts), name)
    codes = entropy.unpack(data[4 * len(cuts) :], spec.size, 2 * s + 1, spec.segments)
    out = np.zeros(spec.size, np.float32)
    for (start, stop), scale in zip(cuts, scales, strict=True):
        if scale > 0:
            out[start:stop] = quantize.from_levels(codes[start:stop], float(scale), s)
    return out


def add_groups(
    out: Array, sent: Sequence[Sent], cuts: Cuts, s: int, name: str, bits: int
) -> dict[int, CodecError]:
    """Adds weight·decoded of each planar body into out; why the others were refused."""
    refused: dict[int, CodecError] = {}
    terms: dict[tuple[int, int], list[tuple[memoryview, float, float]]] = {cut: [] for cut in cuts}
    for i, (data, _, weight) in enumerate(sent):
        try:
            parts = _parts(data, cuts, s, name, bits)
            for (start, stop), _, part in parts:
                fused.check_bits(part, stop - start, s, bits)
        except CodecError as error:
            refused[i] = error
        else:
            for cut, scale, part in parts:
                terms[cut].append((part, float(scale), weight))
    for (start, stop), found in terms.items():
        if found:
            datas, scales, factors = zip(*found, strict=True)
            fused.add_bits(out[start:stop], datas, scales, factors, s, bits)
    return refused


def _parts(
    data: bytes, cuts: Cuts, s: int, name: str, bits: int | None
) -> list[tuple[tuple[int, int], np.float32, memoryview]]:
    """(cut, scale, codes) of each group whose scale is not zero. Raises CodecError for a wrong length."""
    scales, view, at, found = unpack_scales(data, len(cuts), name), memoryview(data), 4 * len(cuts), []
    for (start, stop), scale in zip(cuts, scales, strict=True):
        if scale > 0:
            n = stop - start
            end = at + (pack.radix_size(n, 2 * s + 1) if bits is None else pack.bits_size(n, bits))
            found.append(((start, stop), scale, view[at:end]))
            at = end
    if at != len(data):
        raise CodecError(f"{name}: body of {len(data)} bytes, expected {at}")
    return found
