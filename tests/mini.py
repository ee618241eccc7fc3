"""A second implementation of docs/wire-format.md, from its rules alone.

Integers, CRC-32 and float32 roundings, nothing of fedquant.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import Any

# ---- section 2: the frame


def mini_identity(name: str, fields: dict[str, Any]) -> str:
    items = [f'"{key}":{_json(fields[key])}' for key in sorted(fields)]
    return f'["{name}",{{{",".join(items)}}}]'


def _json(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value).lower() if isinstance(value, bool) else str(value)


def mini_frame(
    identity: str, spec: str, key: dict[str, int], body: bytes, knobs: dict[str, bytes] | None = None
) -> bytes:
    data = b"\x01"
    for text in (identity, spec):
        data += struct.pack("<I", len(text)) + text.encode()
    data += struct.pack("<QII", key["run"], key.get("round", 0), key.get("sensor", 0))
    data += bytes([key.get("purpose", 0), key.get("direction", 0)]) + struct.pack("<H", key.get("part", 0))
    for name, value in sorted((knobs or {}).items()):
        data += struct.pack("<H", len(name)) + name.encode() + b"b" + struct.pack("<I", len(value)) + value
    head = b"\x11" if key.get("part") else b"\x01"
    extra = struct.pack("<H", key["part"]) if key.get("part") else b""
    return head + struct.pack("<I", zlib.crc32(data + head + extra + body)) + extra + body


# ---- section 3: draws


def mix64(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def mix32(x: int) -> int:
    x = (x ^ x >> 16) * 0x7FEB352D % 2**32
    x = (x ^ x >> 15) * 0x846CA68B % 2**32
    return x ^ x >> 16


def mini_word(key: dict[str, int]) -> int:
    packed = 0
    for name, bits in (("round", 22), ("sensor", 22), ("purpose", 5), ("direction", 1), ("part", 10)):
        packed = packed * 2**bits + key.get(name, 0)
    packed *= 2**4
    return mix64((mix64(packed) + mix64(key["seed"] ^ 0x9E3779B97F4A7C15)) % 2**64)


def mini_draw(word: int, i: int) -> int:
    return mix32((mix32(i ^ word % 2**32) + word // 2**32) % 2**32)


# ---- section 4: levels


def f32(x: float) -> float:
    """The float64 result of one operation on float32 numbers, rounded as that operation rounds."""
    return float(struct.unpack("<f", struct.pack("<f", x))[0])


def mini_codes(x: list[float], scale: float, s: int, rounding: str, word: int, start: int) -> list[int]:
    lift = 2.0**100 if scale < 2.0**-100 else 1.0
    inv = f32(s / f32(scale * lift))
    codes = []
    for i, value in enumerate(x, start):
        a = f32(abs(f32(value * lift)) * inv)
        if rounding == "stochastic":
            a = f32(a + mini_draw(word, i) // 2**8 * 2.0**-24)
        elif rounding == "nearest":
            a = f32(a + 0.5)
        else:
            a = f32(a * f32(1 + 2.0**-22))
        level = min(int(a), s)
        codes.append(s + level if value >= 0 else s - level)
    return codes


# ---- section 5: packing


def mini_planar(codes: list[int], bits: int) -> bytes:
    out, block = b"", 2048 // bits
    for start in range(0, len(codes), block):
        part = codes[start : start + block]
        height = math.ceil(len(part) * bits / 8)
        rows = [0] * height
        for i, code in enumerate(part):
            rows[i % height] += code << bits * (i // height)
        out += bytes(rows)
    return out


def mini_group(levels: int) -> tuple[int, int]:
    best = (0, 1)
    for w in range(1, 129):
        k = 0
        while levels ** (k + 1) <= 256**w:
            k += 1
        if 8 * w < 1.01 * k * math.log2(levels):
            return k, w
        if k * best[1] > best[0] * w:
            best = (k, w)
    return best


def mini_radix(codes: list[int], levels: int) -> bytes:
    k, w = mini_group(levels)
    whole = len(codes) // (64 * k) * 64 * k
    groups = [codes[b + j : b + 64 * k : 64] for b in range(0, whole, 64 * k) for j in range(64)]
    rest = len(codes) // k * k
    groups += [codes[i : i + k] for i in range(whole, rest, k)]
    out = b"".join(mini_integer(group, levels).to_bytes(w, "little") for group in groups)
    last = codes[rest:]
    return out + mini_integer(last, levels).to_bytes(
        -(-(levels ** len(last) - 1).bit_length() // 8), "little"
    )


def mini_integer(digits: list[int], levels: int) -> int:
    value = 0
    for digit in digits:
        value = value * levels + digit
    return value


def mini_set(indices: list[int], n: int) -> bytes:
    k = len(indices)
    if k in (0, n):
        return b""
    assert n <= 2048
    rank = sum(math.comb(index, j) for j, index in enumerate(indices, 1))
    return rank.to_bytes(-(-(math.comb(n, k) - 1).bit_length() // 8), "little")


# ---- section 6: bodies


def mini_counts(n: int, weights: list[int], top: int) -> list[list[int]]:
    """N_j(s) for j = 0 … n and s = 0 … top."""
    rows = [[1] * (top + 1)]
    for _ in range(n):
        rows.append([sum(rows[-1][s - w] for w in weights if w <= s) for s in range(top + 1)])
    return rows


class MiniBall:
    """The cells of n numbers at R bits, and their numbers."""

    def __init__(self, n: int, bits: float) -> None:
        most = 2 ** (math.floor(n * bits) - n)
        goal = most**2 * 4**n * math.factorial(n // 2) * math.factorial(-(-n // 2))
        e = 0
        while (3 * e) ** n < goal:
            e += 1
        unit = 1 + e // min(1024, 2**25 // max(1, n * math.ceil(n * bits / 8)))
        top = e // unit
        self.weights = [k * k // unit for k in range(math.isqrt((top + 1) * unit) + 1)]
        self.counts = mini_counts(n, self.weights, top)
        self.n, self.unit = n, unit
        self.budget = max(s for s in range(top + 1) if self.counts[n][s] <= most)
        self.cells = self.counts[n][self.budget]
        self.step = (1 + 2.0**-40) / math.sqrt((self.budget + 1) * unit)
        self.width = -(-(n + (self.cells - 1).bit_length()) // 8)

    def beyond(self, i: int, left: int, k: int) -> int:
        """N_{n−i}(left − w(k)), i from 1."""
        s = left - self.weights[k]
        return self.counts[self.n - i][s] if s >= 0 else 0

    def encode(self, x: list[float], r: float) -> bytes:
        number, left = 0, self.budget
        for i, value in enumerate(x, 1):
            k = math.floor(abs(value) / r / self.step)
            number += sum(self.beyond(i, left, smaller) for smaller in range(k))
            left -= self.weights[k]
            assert left >= 0
        signs = sum(2**i for i, value in enumerate(x) if value < 0)
        return (number * 2**self.n + signs).to_bytes(self.width, "little")

    def decode(self, data: bytes, r: float) -> list[float]:
        assert len(data) == self.width
        value = int.from_bytes(data, "little")
        number, left, x = value >> self.n, self.budget, []
        assert number < self.cells
        for i in range(1, self.n + 1):
            k = 0
            while number >= self.beyond(i, left, k):
                number -= self.beyond(i, left, k)
                k += 1
            left -= self.weights[k]
            size = (k + 0.5) * self.step * r
            x.append(-size if value >> (i - 1) & 1 else size)
        return x


def mini_norm_above(x: list[float]) -> float:
    top = max(map(abs, x))
    return math.nextafter(top * math.sqrt(sum((v / top) ** 2 for v in x)), math.inf) if top else 0.0


def mini_groups(config: dict[str, Any], spec: dict[str, Any], default: str) -> list[tuple[int, int]]:
    scope, n = config.get("scope", default), spec["size"]
    ends = (
        [n] if scope == "whole" else spec["segments"] if scope == "segment" else [*range(scope, n, scope), n]
    )
    return list(zip([0, *ends], ends, strict=False))


def mini_layers(
    config: dict[str, Any], spec: dict[str, Any], word: int, x: list[float], knobs: dict[str, bytes]
) -> bytes:
    """`qsgd` that is told a fineness for each segment."""
    cuts, bits = mini_groups(config, spec, "whole"), list(knobs.get("bits", b""))
    ((name, value),) = knobs.items()
    s = [2 ** (b - 1) - 1 for b in bits] or list(struct.unpack(f"<{len(value) // 2}H", value))
    scales = [max(abs(v) for v in x[a:b]) for a, b in cuts]
    codes = [
        mini_codes(x[a:b], scale, levels, "stochastic", word, a) if scale > 0 else [levels] * (b - a)
        for (a, b), scale, levels in zip(cuts, scales, s, strict=True)
    ]
    body = b"".join(struct.pack("<f", scale) for scale in scales)
    if config.get("entropy"):
        streams = [
            mini_container(
                [c for own, segment in zip(s, codes, strict=True) if own == one for c in segment], one
            )
            for one in sorted(set(s))
        ]
        return body + b"".join(bytes([len(stream)]) for stream in streams[:-1]) + b"".join(streams)
    for i, segment in enumerate(codes):
        if scales[i] > 0:
            planar = name == "bits" and bits[i] in (2, 4, 8)
            body += mini_planar(segment, bits[i]) if planar else mini_radix(segment, 2 * s[i] + 1)
    return body


def mini_container(codes: list[int], s: int) -> bytes:
    """Of a few codes: as they are."""
    return b"\x00" + mini_radix(codes, 2 * s + 1)


def mini_body(
    config: dict[str, Any],
    spec: dict[str, Any],
    word: int,
    x: list[float],
    knobs: dict[str, bytes] | None = None,
) -> bytes:
    name = config["name"]
    if knobs:
        return mini_layers(config, spec, word, x, knobs)
    if name in ("float64", "float32", "float16"):
        return b"".join(struct.pack({"float64": "<d", "float32": "<f", "float16": "<e"}[name], v) for v in x)
    if name in ("qsgd", "terngrad"):
        cuts = mini_groups(config, spec, "whole" if name == "qsgd" else "segment")
        bits = None if name == "terngrad" or "levels" in config else config.get("bits", 4)
        s = 2 ** (bits - 1) - 1 if bits else config.get("levels", 1)
        scales = [max(abs(v) for v in x[a:b]) for a, b in cuts]
        body = b"".join(struct.pack("<f", scale) for scale in scales)
        for (a, b), scale in zip(cuts, scales, strict=True):
            if scale > 0:
                codes = mini_codes(x[a:b], scale, s, "stochastic", word, a)
                body += mini_planar(codes, bits) if bits in (2, 4, 8) else mini_radix(codes, 2 * s + 1)
        return body
    if name == "sign":
        bits_ = [int(v >= 0) for v in x]
        if config.get("aggregate") == "vote":
            return mini_planar(bits_, 1)
        cuts = mini_groups(config, spec, "whole")
        scales = [f32(sum(abs(v) for v in x[a:b]) / (b - a)) for a, b in cuts]
        sent = [cut for cut, scale in zip(cuts, scales, strict=True) if scale > 0]
        return b"".join(struct.pack("<f", scale) for scale in scales) + b"".join(
            mini_planar(bits_[a:b], 1) for a, b in sent
        )
    if name == "uniform":
        r = config.get("range") or max(abs(v) for v in x)
        m = config.get("levels") or 2 ** int(config.get("bits", 4))
        codes = [min(int((v / r + 1) * (m / 2)), m - 1) for v in x]
        head = b"" if "range" in config else struct.pack("<d", r)
        planar = {2: 1, 4: 2, 16: 4, 256: 8}
        return head + (mini_planar(codes, planar[m]) if m in planar else mini_radix(codes, m))
    if name == "ball":
        r = config.get("range") or mini_norm_above(x)
        head = b"" if "range" in config else struct.pack("<d", r)
        return head + (MiniBall(len(x), config.get("bits", 4.0)).encode(x, r) if r else b"")
    if name == "topk":
        order = sorted(range(len(x)), key=lambda i: (-abs(x[i]), i))
        kept = sorted(order[: config["k"]])
        form = {"float32": "<f", "float16": "<e"}[config.get("values", "float32")]
        return mini_set(kept, len(x)) + b"".join(struct.pack(form, x[i]) for i in kept)
    raise NotImplementedError(name)
