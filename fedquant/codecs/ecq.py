"""ECQ: a uniform quantizer and an entropy code, steered by the error allowed or by the bytes there are.

One step serves the whole vector: at equal slopes of rate and distortion all parts have the same step (Gish
and Pierce, "Asymptotically efficient quantizing", 1968), while segments have tables of their own.

Body; none for a vector without numbers:
    u8      bits 0–1: the form; flags: 4 a short step, 8 centroids, 16 dither is subtracted, 32 segments
    form 0  all zeros: nothing follows
    step    float32 > 0, little-endian; flag 4: its upper two bytes, the lower ones are 0
    flag 8  three int8 c: |q| = 1, 2 and above stand for (|q| + c/256)·step
    form 1  all q: `entropy.pack_integers` with the spec's segments
    flag 32 forms 2 and 3: a bit a segment, planar; indices count the numbers of those with 1 alone
    form 2  of q ≠ 0: how many (varint), where (see `indices`), then `pack_integers` of q − 1 for q > 0, of
            q for q < 0
    form 3  as 2, but each is ±1: signs, planar, 1 for negative
With flag 16, q stands for (q − u + ½)·step, where u are the key's draws. A varint is LEB128: 7 bits a byte,
the lowest first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, final

import numpy as np
from pydantic import Field

from fedquant.codecs import ecq_search as search
from fedquant.codecs import entropy
from fedquant.codecs.base import Array, Body, Codec, Spec, State
from fedquant.codecs.configured import ENCODER_ONLY
from fedquant.codecs.indices import decode_indices, encode_indices
from fedquant.errors import CodecError
from fedquant.kernels import pack, scan, steps, topk
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE, NO_KNOBS, Knobs

DEFAULT_NMSE: Final = 0.01
Data = bytes  # ECQ has a field of this name
ZERO, DENSE, SPARSE, SIGNS = range(4)
SHORT, CENTROIDS, SUBTRACTED, SEGMENTS = 4, 8, 16, 32
_WORTH: Final = 55  # 40 bits lower the error of k numbers by the factor 1 + 2·ln 2·40/k
_FEW: Final = 256  # bytes of a body that cannot afford four of a step
_TABLES: Final = 64  # bytes that hold no tables of segments
_ROUNDING: Final = 2.0**-22  # of ‖x‖: what rounding x̂ to float32, twice, may move it, unless denormal


@final
@dataclass(frozen=True)
class ECQ(Codec):
    """As few bytes as an error takes, or as little error as bytes allow; give one target, or nmse = 0.01.

    nmse: ‖x̂ − x‖² ≤ nmse·‖x‖² < ‖x‖², so that error feedback contracts; with dither in expectation, and it
    may exceed 1. bytes: of the whole payload, never exceeded. bits_per_element: b, so that after the header
    and the first byte come at most n·b/8 bytes. Knobs `bytes` and `nmse_ppb` (nmse·10⁹) override the target.
    dither: unbiased, as the step does not depend on the draws; with a limit on bytes it does, through the
    length alone.
    """

    name: ClassVar[str] = "ecq"
    knob_names = frozenset({"bytes", "nmse_ppb"})

    nmse: Annotated[float, Field(gt=0, le=1 << 32)] | None = field(default=None, metadata=ENCODER_ONLY)
    bits_per_element: Annotated[float, Field(gt=0, le=32)] | None = field(default=None, metadata=ENCODER_ONLY)
    bytes: Annotated[int, Field(ge=HEADER_SIZE + 1)] | None = field(default=None, metadata=ENCODER_ONLY)
    dither: bool = False

    def __post_init__(self) -> None:
        given = {k: v for k in ("nmse", "bits_per_element", "bytes") if (v := getattr(self, k)) is not None}
        if len(given) > 1:
            raise ValueError(
                f"ecq: {' and '.join(f'{k}={v:g}' for k, v in given.items())} are given; give one"
            )
        if not given:
            object.__setattr__(self, "nmse", DEFAULT_NMSE)
        if self.nmse is not None and self.nmse >= 1 and not self.dither:
            raise ValueError(
                f"ecq: nmse={self.nmse:g} without dither is met by sending nothing; it must be below 1"
            )

    def variance_bound(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> float | None:
        """γ = (√nmse + 2⁻²²)² with dither; None without it, and under a limit on bytes.

        Without rounding γ = nmse: the error of each number is uniform, n·step²/12 in all. x̂ is rounded twice
        to float32, which moves it by at most 2⁻²²‖x‖ in all (Minkowski).
        """
        nmse, _ = self._target(spec, None, knobs)
        return None if nmse is None or not self.dither else (math.sqrt(nmse) + _ROUNDING) ** 2

    def _target(self, spec: Spec, key: Key | None, knobs: Knobs) -> tuple[float | None, int]:
        """(nmse, bytes of a body): one of them. Raises CodecError for a bad knob."""
        if len(knobs) > 1:
            raise CodecError(f"ecq: knobs {sorted(knobs)} are given; give one")
        for name, value in knobs.items():
            if not isinstance(value, int) or value < 1:
                raise CodecError(f"ecq: knob {name}={value!r} is not a positive integer")
        nmse, size = self.nmse, self.bytes
        if "nmse_ppb" in knobs:
            nmse = int(knobs["nmse_ppb"]) / 10**9
            if nmse >= 1 and not self.dither:
                raise CodecError(f"ecq: knob nmse_ppb={nmse * 10**9:g} is not below 10**9")
        elif "bytes" in knobs:
            nmse, size = None, int(knobs["bytes"])
        if nmse is not None:
            return nmse, 0
        if size is None:
            return None, 1 + math.floor(spec.size * (self.bits_per_element or 0) / 8)
        header = HEADER_SIZE + (2 if key and key.part else 0)
        if size < header + min(spec.size, 1):
            raise CodecError(
                f"ecq: bytes={size}, but the header takes {header} and the shortest body {min(spec.size, 1)}"
            )
        return None, size - header

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        nmse, most = self._target(spec, key, knobs)
        top = scan.max_abs(x)
        if top == 0:
            data = b"\0" if x.size else b""
        elif nmse is None:
            data = self._under_size(x, spec, key, most, top)
        elif self.dither:
            step, subtracted = search.unbiased_step(x, nmse, top)
            data = _write(steps.to_steps(x, step, key=key), spec, step, None, subtracted)
        else:
            rho = search.RHO_SPARSE if nmse >= 0.5 else search.RHO
            most_error = max(0.0, math.sqrt(nmse) - _ROUNDING) ** 2 * scan.sum_squares(x)
            found = search.under_error(x, spec, most_error, top, rho)
            if found is None:
                raise CodecError(
                    f"ecq: nmse={nmse:g} takes steps finer than max |x|/{search.FINEST}; allow more"
                )
            q, fit = found
            data = _write(q, spec, fit.step, fit.centroids)
        return Body(data, lambda: self._decode_body(data, spec, key, knobs), state)

    def _under_size(self, x: Array, spec: Spec, key: Key, most: int, top: float) -> Data:
        rho = search.RHO_SPARSE if 32 * most <= x.size else search.RHO

        def biased(x: Array, spec: Spec, step: np.float32) -> tuple[float, Data]:
            q = steps.to_steps(x, step, rho)
            moments = steps.moments(x, q, step)
            fit, lean = search.fits(moments, step)
            if (lean.error - fit.error) * float(sum(moments[1:, 0].tolist())) <= _WORTH * fit.error:
                fit = lean
            return fit.error, _write(q, spec, fit.step, fit.centroids)

        def unbiased(x: Array, spec: Spec, step: np.float32) -> tuple[float, Data]:
            if most <= _FEW:
                step = search.shortened(step) or step
            q = steps.to_steps(x, step, key=key)
            return float(step), _write(q, spec, step, None, search.subtracts(x, float(step), top))

        high = search.pattern(steps.TOP) if self.dither else search.coarsest(top)
        data = search.under_size(unbiased if self.dither else biased, x, spec, most, search.finest(top), high)
        if data is None and self.dither:
            raise CodecError(
                f"ecq: {spec.size} numbers of up to {top:g} do not fit a body of {most} bytes without bias"
            )
        return data if data and len(data) > 1 else _write_largest(x, spec, most)

    def _decode_body(self, data: Data, spec: Spec, key: Key, knobs: Knobs) -> Array:
        if spec.size == 0 and not data:
            return np.zeros(0, np.float32)
        mode = data[0] if data and spec.size else SHORT  # which is refused
        form, subtracted = mode & 3, bool(mode & SUBTRACTED)
        if form == ZERO:
            if mode or len(data) > 1:
                raise CodecError(f"ecq: {len(data)} bytes for {spec.size} numbers are not a body")
            return np.zeros(spec.size, np.float32)
        never = (CENTROIDS if self.dither else SUBTRACTED) | (SEGMENTS if form == DENSE else 0)
        if mode >= 2 * SEGMENTS or mode & never:
            raise CodecError(f"ecq: first byte {mode:#04x} is never written by {self}")
        at = 3 if mode & SHORT else 5
        end = at + (3 if mode & CENTROIDS else 0)
        if len(data) < end:
            raise CodecError(f"ecq: body of {len(data)} bytes, cut off in its head")
        step = np.frombuffer(data[1:at].rjust(4, b"\0"), "<f4")[0]
        if not 0 < step < math.inf:
            raise CodecError(f"ecq: step {step} is not positive and finite")
        centroids = np.frombuffer(data[at:end], np.int8) if mode & CENTROIDS else steps.MIDDLE
        if form == DENSE:
            q = entropy.unpack_integers(data[end:], spec.size, spec.segments)
        else:
            q = _read_sparse(data[end:], spec, form == SIGNS, bool(mode & SEGMENTS))
        return steps.from_steps(q, step, centroids, key if subtracted else None)


def _write(
    q: Array, spec: Spec, step: np.float32, centroids: Array | None, subtracted: bool = False
) -> bytes:
    """The shortest body of integers."""
    count = int(np.count_nonzero(q))
    if count == 0 and not subtracted:
        return b"\0"
    parts = _write_sparse(q, spec) if count <= max(q.size // 8, 64) else []
    # Tables of segments may beat indices down to a density of about 1/4096, but not in few bytes.
    apart = (
        len(spec.segments) > 1 and count > q.size // 4096 and len(parts[0][1]) > _TABLES if parts else True
    )
    if apart or count > q.size // 64:
        parts.append((DENSE, entropy.pack_integers(q, spec.segments)))
    form, data = min(parts, key=lambda part: len(part[1]))
    head = np.array([step], "<f4").tobytes()
    flags = (SUBTRACTED if subtracted else 0) | (0 if centroids is None else CENTROIDS)
    if head[:2] == b"\0\0":
        flags, head = flags | SHORT, head[2:]
    return b"".join([bytes([form | flags]), head, b"" if centroids is None else centroids.tobytes(), data])


def _write_largest(x: Array, spec: Spec, most: int) -> bytes:
    """The signs of as many of the largest numbers as fit; for vectors whose numbers no step tells apart."""

    def write(k: int) -> bytes:
        at, q = topk.largest(x, k), np.zeros(x.size, np.int32)
        q[at] = np.where(x[at] < 0, -1, 1)
        mean = scan.sum_abs(x[at]) / k
        return _write(q, spec, search.shortened(mean, nearest=True) or search.rounded_down(mean), None)

    low, high = 0, min(x.size, 8 * most)
    while low < high:
        k = (low + high + 1) // 2
        low, high = (k, high) if len(write(k)) <= most else (low, k - 1)
    return write(low) if low else b"\0"


def _write_sparse(q: Array, spec: Spec) -> list[tuple[int, bytes]]:
    """(form and flag, data) with and without naming the segments that are not zero."""
    at = np.flatnonzero(q)
    values = q[at]
    if (np.abs(values) == 1).all():
        form, tail = SIGNS, pack.pack_bits(values < 0, 1)
    else:
        form, tail = SPARSE, entropy.pack_integers(values - (values > 0))
    count = _varint(at.size)
    parts = [(form, count + encode_indices(at, q.size) + tail)]
    used = np.zeros(len(spec.segments), np.bool_)
    used[np.searchsorted(spec.segments, at, "right")] = True
    if at.size and len(used) <= 8 * len(parts[0][1]) and not used.all():
        places = _places(spec, used)
        where = encode_indices(np.searchsorted(places, at), places.size)
        parts.append((form | SEGMENTS, pack.pack_bits(used, 1) + count + where + tail))
    return parts


def _places(spec: Spec, used: Array) -> Array:
    """int64[m]: the coordinates of the segments in use."""
    return np.flatnonzero(np.repeat(used, np.diff((0, *spec.segments))))


def _read_sparse(data: bytes, spec: Spec, signs: bool, segments: bool) -> Array:
    places, at = None, 0
    if segments:
        at = pack.bits_size(len(spec.segments), 1)
        places = _places(spec, pack.unpack_bits(data[:at], len(spec.segments), 1).astype(np.bool_))
    n = spec.size if places is None else places.size
    count, at = _read_varint(data, at, n)
    indices, at = decode_indices(data, at, n, count)
    if signs:
        values = 1 - 2 * pack.unpack_bits(data[at:], count, 1).astype(np.int32)
    else:
        values = entropy.unpack_integers(data[at:], count)
        if values.max(initial=0) == np.iinfo(np.int32).max:
            raise CodecError("ecq: an integer is above 2**31 − 1")
        values += values >= 0
    q = np.zeros(spec.size, np.int32)
    q[indices if places is None else places[indices]] = values
    return q


def _varint(value: int) -> bytes:
    out = []
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _read_varint(data: bytes, at: int, most: int) -> tuple[int, int]:
    """(value, where it ends). Raises CodecError where it is cut off or above `most`."""
    value = 0
    for i, byte in enumerate(data[at : at + 5]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            if value > most:
                break
            return value, at + i + 1
    raise CodecError(f"ecq: the count is cut off or above {most}")
