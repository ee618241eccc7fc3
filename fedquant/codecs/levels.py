"""Groups rounded at random, without bias, to the levels scale·{−s…s}/s: the body of QSGD and TernGrad.

Body: a float32 scale a group, then the codes of each group whose scale is not zero: planar where its
fineness says in how many bits, mixed radix of 2s+1 levels otherwise.

Entropy-coded, it is the scales and `entropy` of all codes, where numbers of a group whose scale is zero have
code s; tables are shared by segments. Groups that differ in s have a container for each s, the least s
first, of their codes in order; the lengths of all containers but the last, varints, come before the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

import numpy as np

from fedquant.codecs import entropy
from fedquant.codecs.base import Array, Sent, Spec
from fedquant.codecs.frequencies import read_varint, varint
from fedquant.codecs.groups import bounds, pack_scales, unpack_scales
from fedquant.errors import CodecError
from fedquant.kernels import buckets, fused, pack, quantize
from fedquant.keys import Key

Cuts = Sequence[tuple[int, int]]


class Fineness(NamedTuple):
    """s positive levels; codes planar in so many bits, or (0) in mixed radix."""

    s: int
    bits: int = 0

    def size(self, n: int) -> int:
        """Bytes of n codes."""
        return pack.bits_size(n, self.bits) if self.bits else pack.radix_size(n, 2 * self.s + 1)


Levels = int | Sequence[Fineness]
"""A fineness a group; or the s of all, in mixed radix."""


def of_bits(bits: int) -> Fineness:
    """A sign and bits − 1 bits of magnitude: s = 2**(bits−1) − 1."""
    return Fineness((1 << (bits - 1)) - 1, bits if bits in (2, 4, 8) else 0)


def encode_groups(x: Array, cuts: Cuts, scales: Array, levels: Levels, key: Key) -> bytes:
    """The body of x: float32[size], cut at `cuts`, where no |x| of a group exceeds its scale: float32[g]."""
    bodies: list[bytes | memoryview] = [pack_scales(scales)]
    for run in _runs(cuts, scales, levels):
        bodies.append(buckets.encode(x, run.bounds, run.scales, *run.fine, key))
    return b"".join(bodies)


def decode_groups(data: bytes, size: int, cuts: Cuts, levels: Levels, name: str) -> Array:
    """float32[size] of a body. Raises CodecError, in the name of codec `name`, for a bad one."""
    runs = _runs(cuts, unpack_scales(data, len(cuts), name), levels)
    view, at, out = memoryview(data), 4 * len(cuts), np.zeros(size, np.float32)
    sizes = [int(buckets.sizes(run.bounds, run.scales, *run.fine).sum()) for run in runs]
    _check_size(data, at + sum(sizes), name)
    for run, taken in zip(runs, sizes, strict=True):
        buckets.decode(view[at : at + taken], run.bounds, run.scales, *run.fine, out)
        at += taken
    return out


def add_groups(
    out: Array, sent: Sequence[Sent], cuts: Cuts, levels: Sequence[Fineness], name: str
) -> dict[int, CodecError]:
    """Adds weight·decoded of each body, planar in all its groups, into out; why the others were refused."""
    refused: dict[int, CodecError] = {}
    terms: dict[int, list[tuple[memoryview, float, float]]] = {start: [] for start, _ in cuts}
    for i, (data, _, weight) in enumerate(sent):
        try:
            parts = _parts(data, cuts, levels, name)
            for start, stop, _, (s, bits), part in parts:
                fused.check_bits(part, stop - start, s, bits)
        except CodecError as error:
            refused[i] = error
        else:
            for start, _, scale, _, part in parts:
                terms[start].append((part, scale, weight))
    for (start, stop), (s, bits) in zip(cuts, levels, strict=True):
        if terms[start]:
            datas, scales, factors = zip(*terms[start], strict=True)
            fused.add_bits(out[start:stop], datas, scales, factors, s, bits)
    return refused


def encode_coded(x: Array, spec: Spec, cuts: Cuts, scales: Array, levels: Levels, key: Key) -> bytes:
    """The entropy-coded body of x: float32[size]."""
    scale_at, streams = dict(zip(cuts, scales, strict=True)), []
    for s, own, ends in _containers(spec, cuts, levels):
        codes, at = np.full(ends[-1], s, quantize.code_type(s)), 0
        for start, stop in own:
            end, scale = at + stop - start, float(scale_at[start, stop])
            if scale > 0:
                codes[at:end] = quantize.to_levels(x[start:stop], scale, s, "stochastic", key, start)
            at = end
        streams.append(entropy.pack(codes, 2 * s + 1, ends))
    lengths = [varint(len(stream)) for stream in streams[:-1]]
    return b"".join([pack_scales(scales), *lengths, *streams])


def decode_coded(data: bytes, spec: Spec, cuts: Cuts, levels: Levels, name: str) -> Array:
    """float32[size] of an entropy-coded body. Raises CodecError for a bad one."""
    scale_at = dict(zip(cuts, unpack_scales(data, len(cuts), name), strict=True))
    containers, at, lengths = _containers(spec, cuts, levels), 4 * len(cuts), []
    for _ in containers[:-1]:
        length, at = read_varint(data, at)
        lengths.append(length)
    lengths.append(len(data) - at - sum(lengths))
    if lengths[-1] < 0:
        raise CodecError(f"{name}: containers of {sum(lengths[:-1])} bytes, {len(data) - at} are there")
    out = np.zeros(spec.size, np.float32)
    for (s, own, ends), length in zip(containers, lengths, strict=True):
        codes, taken = entropy.unpack(data[at : at + length], ends[-1], 2 * s + 1, ends), 0
        at += length
        for start, stop in own:
            end, scale = taken + stop - start, float(scale_at[start, stop])
            if scale > 0:
                out[start:stop] = quantize.from_levels(codes[taken:end], scale, s)
            taken = end
    return out


def longest(spec: Spec, cuts: Cuts, levels: Levels, coded: bool) -> int:
    """Bytes of the longest body: of every body whose scales are not zero, where no entropy is coded."""
    scales = 4 * len(cuts)
    if not coded:
        return scales + sum(
            fine.size(stop - start) for (start, stop), fine in zip(cuts, _each(levels, cuts), strict=True)
        )
    limits = [1 + Fineness(s).size(ends[-1]) for s, _, ends in _containers(spec, cuts, levels)]
    return scales + sum(len(varint(limit)) for limit in limits[:-1]) + sum(limits)


class _Run(NamedTuple):
    """Neighbouring groups of one fineness."""

    bounds: buckets.I64
    scales: Array
    fine: Fineness


def _runs(cuts: Cuts, scales: Array, levels: Levels) -> list[_Run]:
    ends, found, first = bounds(tuple(cuts)), [], 0
    if len(cuts) == 1:
        return [_Run(ends, scales, _each(levels, cuts)[0])]
    for fine, same in groupby(_each(levels, cuts)):
        last = first + len(list(same))
        found.append(_Run(ends[first : last + 1], scales[first:last], fine))
        first = last
    return found


class _Part(NamedTuple):
    """The codes of a group whose scale is not zero."""

    start: int
    stop: int
    scale: float
    fine: Fineness
    codes: memoryview


def _parts(data: bytes, cuts: Cuts, levels: Levels, name: str) -> list[_Part]:
    """What a body holds. Raises CodecError for a wrong length."""
    scales, view, at, found = unpack_scales(data, len(cuts), name), memoryview(data), 4 * len(cuts), []
    for (start, stop), scale, fine in zip(cuts, scales, _each(levels, cuts), strict=True):
        if scale > 0:
            end = at + fine.size(stop - start)
            found.append(_Part(start, stop, float(scale), fine, view[at:end]))
            at = end
    _check_size(data, at, name)
    return found


def _check_size(data: bytes, expected: int, name: str) -> None:
    if len(data) != expected:
        raise CodecError(f"{name}: body of {len(data)} bytes, expected {expected}")


def _containers(spec: Spec, cuts: Cuts, levels: Levels) -> list[tuple[int, Cuts, Sequence[int]]]:
    """(s, its groups, the ends of their segments) of each container, the least s first."""
    found: dict[int, list[tuple[int, int]]] = {}
    for cut, fine in zip(cuts, _each(levels, cuts), strict=True):
        found.setdefault(fine.s, []).append(cut)
    if len(found) < 2:
        return [(s, cuts, spec.segments) for s in found or [1]]  # no groups: no codes of any s
    return [(s, found[s], list(accumulate(stop - start for start, stop in found[s]))) for s in sorted(found)]


def _each(levels: Levels, cuts: Cuts) -> Sequence[Fineness]:
    return [Fineness(levels)] * len(cuts) if isinstance(levels, int) else levels
