"""QCS: partitions are mixed by a random Hadamard transform, some coefficients kept, dithered and rounded.

Abdi & Fekri, "Quantized Compressive Sampling of Stochastic Gradients for Efficient Communication in
Distributed Deep Learning" (2020). Signs and dither come from the key and are never sent.

Body: every partition's scale, then in one stretch the codes of those whose scale is not zero. A scale is a
float32, or its upper 16 bits (none for a lone coefficient: that takes 32). Codes are planar for 2, 4, 16 and
256 levels, mixed radix for other counts; entropy-coded, they are in an `entropy` container.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Final, Literal, final

import numpy as np
from pydantic import Field

from fedquant.codecs import entropy
from fedquant.codecs.base import Array, Body, Codec, Spec, State
from fedquant.codecs.groups import unpack_scales
from fedquant.codecs.qcs_design import PLANAR, Plan, best, plan, smallest, useful
from fedquant.errors import CodecError, ConfigError
from fedquant.kernels import hadamard, pack
from fedquant.keys import Key
from fedquant.wire import HEADER_SIZE, NO_KNOBS, Knobs

MAX_Q: Final = 127


@final
@dataclass(frozen=True)
class QCS(Codec):
    """k of `order` coefficients at 2q+1 levels; knob `levels` sets q. Either these, or `gain` chooses them.

    order: coordinates a partition, or "auto": what suits the gain, or else takes the fewest bytes. Powers of
        two are several times as fast as the rest.
    k, k_over_n: coefficients kept of each partition, or their share.
    q: Q, in halves: 0.5 is one bit, 1 ternary, 1.5 two bits, 7.5 four bits.
    gain: bytes of float32 over bytes of payload; order (if auto), k and q are those of the least γ.
    estimator: "unbiased" (α = 1) or "mmse" (α = 1/(γ+1)). scale: rounded up in either format.
    entropy: codes in about their entropy, never more than a byte above the plain form. `gain` and order
        "auto" go by the plain form, whose size is known beforehand: a gain is kept, and mostly exceeded.
    Raises ConfigError where fields contradict each other.
    """

    name: ClassVar[str] = "qcs"
    knob_names = frozenset({"levels"})

    order: Annotated[int, Field(ge=1, le=512)] | Literal["auto"] = 256
    k: Annotated[int, Field(ge=1, le=512)] | None = None
    k_over_n: Annotated[float, Field(gt=0, le=1)] = 1.0
    q: Annotated[float, Field(ge=0.5, le=MAX_Q + 0.5, multiple_of=0.5)] = 1.0
    gain: Annotated[float, Field(gt=0)] | None = None
    estimator: Literal["unbiased", "mmse"] = "unbiased"
    scale: Literal["float32", "bfloat16"] = "float32"
    entropy: bool = False

    def __post_init__(self) -> None:
        for name in ("k_over_n", "q", "gain"):  # 2 and 2.0 are one codec, with one checksum
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, float(value))
        if self.order != "auto" and self.order not in hadamard.orders():
            near = [n for n in hadamard.orders() if abs(n - self.order) <= 16]
            raise ConfigError(f"qcs: no Hadamard matrix of order={self.order} is known here; near it: {near}")
        if self.k is not None and (self.order == "auto" or self.k > self.order or self.k_over_n != 1):
            raise ConfigError(
                f"qcs: k={self.k} must be at most the order, which is {self.order}, and without k_over_n"
            )
        if self.gain is not None and (self.k is not None or self.k_over_n != 1 or self.q != 1):
            raise ConfigError(f"qcs: gain={self.gain} chooses k and q; leave k, k_over_n and q out")

    def check(self, spec: Spec) -> None:
        """Raises CodecError for float64, and for a vector too short for the gain."""
        super().check(spec)
        self.plan(spec)

    def plan(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> Plan:
        """How such a vector is cut. Raises CodecError for a bad knob or a gain out of reach."""
        levels = knobs.get("levels")
        if levels is None:
            return _plan(self, spec.size, round(2 * self.q) + 1)
        if not isinstance(levels, int) or not 1 <= levels <= MAX_Q:
            raise CodecError(f"qcs: knob levels={levels!r} is not an integer in [1, {MAX_Q}]")
        if self.gain is not None:
            raise CodecError(
                f"qcs: knob levels={levels} contradicts gain={self.gain:g}, which chooses them; "
                "leave gain out"
            )
        return _plan(self, spec.size, 2 * levels + 1)

    def limit(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> int:
        """Bytes of the longest body: of every body whose scales are not zero, where no entropy is coded."""
        return self.plan(spec, knobs).bytes + self.entropy  # the form's own byte

    def gamma(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> float:
        """γ of the worst partition: E‖x̂ − x‖² ≤ γ‖x‖² (Theorem 2), or γ/(γ+1)·‖x‖² for mmse (Lemma 3)."""
        return self.plan(spec, knobs).gamma

    def variance_bound(self, spec: Spec, knobs: Knobs = NO_KNOBS) -> float | None:
        """γ where the estimator is unbiased (eq. 10), else None."""
        return self.gamma(spec, knobs) if self.estimator == "unbiased" else None

    def _encode_body(self, x: Array, spec: Spec, key: Key, state: State, knobs: Knobs) -> Body:
        cut = self.plan(spec, knobs)
        scales, codes = [], [np.zeros(0, np.uint8)]
        for i, run in enumerate(cut.runs):
            part = x[run.start : run.start + run.count * run.order]
            if part.size < run.order:
                part = np.concatenate([part, np.zeros(run.order - part.size, np.float32)])
            short = cut.is_short(run)
            scale, code = hadamard.encode(part, run.order, run.k, cut.levels, *_streams(key, i), short)
            limit = hadamard.largest_scale(run.k, cut.levels)
            if scale.max() > limit:
                raise CodecError(
                    f"qcs: a scale of {scale.max():g} exceeds {limit:g}; x is too large for float32"
                )
            scales.append(scale)
            codes.append(code)
        data = _write(cut, scales) + self._pack(np.concatenate(codes), cut, scales)
        return Body(data, lambda: self._decode_body(data, spec, key, knobs), state)

    def _decode_body(self, data: bytes, spec: Spec, key: Key, knobs: Knobs) -> Array:
        cut = self.plan(spec, knobs)
        scales = _read(cut, data)
        codes = self._unpack(data[cut.scale_bytes :], cut, scales)
        out = np.empty(spec.size, np.float32)
        at = 0
        for i, (run, scale) in enumerate(zip(cut.runs, scales, strict=True)):
            code = codes[at : at + run.count * run.k]
            at += code.size
            if run.k == 1 and code.max() > 1:
                raise CodecError("qcs: the code of a lone coefficient is not its sign")
            alpha = 1.0 if self.estimator == "unbiased" else 1 / (cut.run_gamma(run) + 1)
            stop = run.start + run.count * run.order
            # The padding of the last partition has no place in the vector.
            part = out[run.start : stop] if stop <= spec.size else np.empty(run.order, np.float32)
            hadamard.decode(scale, code, part, run.order, run.k, cut.levels, alpha, *_streams(key, i))
            if stop > spec.size:
                out[run.start :] = part[: spec.size - run.start]
        return out

    def _pack(self, codes: Array, cut: Plan, scales: Sequence[Array]) -> bytes:
        codes = codes[_coded(cut, scales)]
        if self.entropy:
            return entropy.pack(codes, cut.levels)
        bits = PLANAR.get(cut.levels)
        return pack.pack_bits(codes, bits) if bits else pack.pack_radix(codes, cut.levels)

    def _unpack(self, data: bytes, cut: Plan, scales: Sequence[Array]) -> Array:
        n = sum(run.k * int(np.count_nonzero(scale)) for run, scale in zip(cut.runs, scales, strict=True))
        bits = PLANAR.get(cut.levels)
        sent: Array
        if self.entropy:
            sent = entropy.unpack(data, n, cut.levels)
        else:
            sent = pack.unpack_bits(data, n, bits) if bits else pack.unpack_radix(data, n, cut.levels)
        if n == cut.codes:
            return sent.astype(np.uint8, copy=False)
        codes = np.zeros(cut.codes, np.uint8)
        codes[_coded(cut, scales)] = sent
        return codes


def _streams(key: Key, run: int) -> tuple[Key, Key]:
    """The keys of a run's signs and of its dither."""
    return key.fold(stream=1 + 2 * run), key.fold(stream=2 + 2 * run)


def _coded(cut: Plan, scales: Sequence[Array]) -> Array | slice:
    """Where the codes are of partitions whose scale is not zero: the rest is known."""
    if all(scale.all() for scale in scales):
        return slice(None)
    return np.concatenate([np.repeat(scale > 0, run.k) for run, scale in zip(cut.runs, scales, strict=True)])


def _write(cut: Plan, scales: Sequence[Array]) -> bytes:
    return b"".join(
        ((scale.view("<u4") >> 16).astype("<u2") if cut.is_short(run) else scale.astype("<f4")).tobytes()
        for run, scale in zip(cut.runs, scales, strict=True)
    )


def _read(cut: Plan, data: bytes) -> list[Array]:
    """float32[count] of each run. Raises CodecError for a negative or non-finite one, and too few bytes."""
    if len(data) < cut.scale_bytes:
        raise CodecError(f"qcs: body of {len(data)} bytes, its scales alone take {cut.scale_bytes}")
    scales, at = [], 0
    for run in cut.runs:
        stop = at + run.count * (2 if cut.is_short(run) else 4)
        part = data[at:stop]
        if cut.is_short(run):
            part = (np.frombuffer(part, "<u2").astype("<u4") << 16).tobytes()
        scales.append(unpack_scales(part, run.count, "qcs"))
        at = stop
    return scales


@lru_cache(maxsize=1024)
def _plan(codec: QCS, size: int, levels: int) -> Plan:
    short = codec.scale == "bfloat16"
    if codec.gain is None:
        if codec.order == "auto":
            return smallest(size, codec.k_over_n, levels, short)
        k = codec.k if codec.k is not None else max(1, round(codec.k_over_n * codec.order))
        return plan(size, codec.order, k, levels, short)
    among = useful(size) if codec.order == "auto" else [codec.order]
    budget = math.floor(4 * size / codec.gain) - HEADER_SIZE - codec.entropy  # see `limit`
    found = best(size, budget, among, short)
    if found is None:
        raise CodecError(
            f"qcs: gain={codec.gain:g} leaves {max(budget, 0)} bytes for the body of {size} numbers, "
            "fewer than any plan takes; lower the gain or send more numbers at once"
        )
    return found
