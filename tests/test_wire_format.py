"""docs/wire-format.md, taken at its word: a second implementation from its rules alone, and its examples.

The implementation below uses integers, CRC-32 and float32 roundings, nothing of fedquant; the examples
are the golden bytes of the format.
"""

from __future__ import annotations

import json
import math
import re
import struct
import zlib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedquant import registry
from fedquant.codecs.base import Spec
from fedquant.codecs.data import DataSpec
from fedquant.codecs.gradcorr import GradCorr
from fedquant.codecs.refinement import Refinement
from fedquant.kernels import pack, rng
from fedquant.keys import Direction, Key, Purpose

TEXT = (Path(__file__).parents[1] / "docs" / "wire-format.md").read_text(encoding="utf-8")
EXAMPLES = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
VECTORS = [e for e in EXAMPLES if "spec" in e]
SAMPLES = [e for e in EXAMPLES if "data_spec" in e]
DRAWS = [e for e in EXAMPLES if "word" in e]


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


def fields_of(config: dict[str, Any]) -> dict[str, Any]:
    return {
        k: v
        for k, v in config.items()
        if k not in ("name", "clip", "rounding") and DEFAULTS.get((config["name"], k)) != v
    }


def knobs_of(example: dict[str, Any]) -> dict[str, bytes]:
    return {name: bytes.fromhex(value) for name, value in example.get("knobs", {}).items()}


def library_key(key: dict[str, int]) -> Key:
    named = {
        **key,
        "purpose": Purpose(key.get("purpose", 0)),
        "direction": Direction(key.get("direction", 0)),
    }
    return Key(**named)  # type: ignore[arg-type]


def spec_text(spec: dict[str, Any]) -> str:
    ends = spec.get("segments", [spec["size"]])
    return f"{spec['size']} {spec.get('dtype', 'float32')} {' '.join(map(str, ends))}"


def ids(examples: list[Any]) -> list[str]:
    return [str(e["codec"]) for e in examples]


# ---- the tests


def test_there_is_an_example_of_every_codec() -> None:
    shown = {e["codec"]["name"] for e in VECTORS}
    assert shown == set(registry.names("codec"))
    assert {e["codec"]["name"] for e in SAMPLES} == set(registry.names("data_codec"))
    assert DRAWS


@pytest.mark.parametrize("example", DRAWS, ids=str)
def test_draws(example: dict[str, Any]) -> None:
    word = int(example["word"], 16)
    key = library_key(example["key"])
    assert mini_word(example["key"]) == word == key.word
    drawn = [int(d, 16) for d in example["draws"]]
    assert [mini_draw(word, i) for i in range(len(drawn))] == drawn == rng.uint32(key, len(drawn)).tolist()


@pytest.mark.parametrize("example", VECTORS, ids=ids(VECTORS))
def test_vectors(example: dict[str, Any]) -> None:
    codec = registry.create("codec", example["codec"])
    given = example["spec"]
    spec = Spec(given["size"], given.get("dtype", "float32"), tuple(given.get("segments", ())))
    key, payload = library_key(example["key"]), bytes.fromhex(example["payload"])
    x, knobs = np.array(example["x"], spec.dtype), knobs_of(example)
    assert codec.encode(x, spec, key, codec.init(spec), knobs)[0].hex(" ") == payload.hex(" ")
    assert (
        codec.decode(payload, spec, key, knobs).tolist() == np.array(example["decoded"], spec.dtype).tolist()
    )


DEFAULTS = {("qsgd", "bits"): 4, ("uniform", "bits"): 4.0, ("ball", "bits"): 4.0, ("dataq", "m"): 8}
SIMPLE = ("float64", "float32", "float16", "qsgd", "terngrad", "sign", "uniform", "ball", "topk")
WRITTEN = [
    e for e in VECTORS if e["codec"]["name"] in SIMPLE and ("entropy" not in e["codec"] or "knobs" in e)
]


@pytest.mark.parametrize(
    "example",
    WRITTEN,
    ids=ids(WRITTEN),
)
def test_vectors_from_the_text_alone(example: dict[str, Any]) -> None:
    config, spec, key = example["codec"], example["spec"], example["key"]
    knobs = knobs_of(example)
    body = mini_body(config, spec, mini_word(key), [float(v) for v in example["x"]], knobs)
    identity = mini_identity(config["name"], fields_of(config))
    payload = bytes.fromhex(example["payload"])
    assert mini_frame(identity, spec_text(spec), key, body, knobs).hex(" ") == payload.hex(" ")


BALLS = [e for e in VECTORS if e["codec"]["name"] == "ball"]


@pytest.mark.parametrize("example", BALLS, ids=ids(BALLS))
def test_cells_of_the_ball_decode_from_the_text_alone(example: dict[str, Any]) -> None:
    body, config = bytes.fromhex(example["payload"])[5:], example["codec"]
    if "range" not in config:
        (r,), body = struct.unpack("<d", body[:8]), body[8:]
    else:
        r = config["range"]
    assert MiniBall(example["spec"]["size"], config["bits"]).decode(body, r) == example["decoded"]


@pytest.mark.parametrize(
    ("n", "bits"),
    [(1, 1.0), (1, 10.0), (2, 3.0), (2, 8.5), (3, 7.0), (9, 2.2), (20, 4.0), (40, 1.0), (24, 6.3)],
)
def test_cells_of_the_ball_are_as_written(n: int, bits: float) -> None:
    ball, r, spec = MiniBall(n, bits), 3.7, Spec(n, "float64")
    codec = registry.create("codec", {"name": "ball", "bits": bits, "range": r})
    for seed in range(20):
        x = rng.integers(Key(seed), n, 2001).astype(np.float64) - 1000
        x *= r * (1 - 1e-12) * (seed + 1) / 20 / max(1, np.linalg.norm(x))
        payload, _ = codec.encode(x, spec, Key(seed))
        assert payload[5:] == ball.encode(x.tolist(), r)
        assert codec.decode(payload, spec, Key(seed)).tolist() == ball.decode(payload[5:], r)


def test_the_cells_worked_out_in_the_text() -> None:
    ball = MiniBall(2, 3.0)
    assert (ball.unit, ball.budget, ball.cells, ball.step) == (1, 15, 15, (1 + 2.0**-40) / 4)
    assert ball.encode([-0.99, 0.01], 1.0) == bytes([12 * 2**2 + 1])
    assert MiniBall(3, 9.0).unit > 1  # as in the second example


HEAD = TEXT[: TEXT.index("**Spec identity**")]
ROWS = [line.split("|")[1:4] for line in HEAD.splitlines() if re.match(r"\| `[a-z]", line)]
KEYS = {name: row for row in ROWS for name in re.findall(r"`(\w+)`", row[0])}
CLASSES = {
    **{name: registry.lookup("codec", name) for name in registry.names("codec")},
    **{name: registry.lookup("data_codec", name) for name in registry.names("data_codec")},
    **{cls.name: cls for cls in (GradCorr, Refinement)},
}


@pytest.mark.parametrize("name", CLASSES)
def test_the_table_of_defaults(name: str) -> None:
    _, keys, own = KEYS[name]
    known = {field.name: field for field in fields(CLASSES[name])}
    ours = {key for key, field in known.items() if field.metadata.get("encoder_only")}
    assert set(re.findall(r"`(\w+)`", own)) == ours
    shown = dict(re.findall(r'`(\w+)`(?: (null|true|false|[\d.]+|"(?:\\.|[^"\\])*"))?', keys))
    assert shown.keys() == known.keys() - ours
    for key, value in shown.items():
        default = known[key].default
        text = getattr(default, "identity", default)
        assert value == ("" if default is MISSING else json.dumps(text, separators=(",", ":")))


@pytest.mark.parametrize("example", SAMPLES, ids=ids(SAMPLES))
def test_samples(example: dict[str, Any]) -> None:
    codec, given = registry.create("data_codec", example["codec"]), example["data_spec"]
    spec = DataSpec(tuple(given["shape"]), given["max_samples"], given["labels"])
    key, payload = library_key(example["key"]), bytes.fromhex(example["payload"])
    x, labels = np.array(example["x"], np.float32), np.array(example["labels"])
    assert codec.encode(x, labels, spec, key).hex(" ") == payload.hex(" ")
    back, classes = codec.decode(payload, spec, key)
    assert back.tolist() == np.array(example["decoded"], np.float32).tolist()
    assert classes.tolist() == labels.tolist()


PLAIN = [e for e in SAMPLES if e["codec"].get("scale") != "l2"]


@pytest.mark.parametrize("example", PLAIN, ids=ids(PLAIN))
def test_samples_from_the_text_alone(example: dict[str, Any]) -> None:
    config, given, key = example["codec"], example["data_spec"], example["key"]
    flat = [float(v) for sample in example["x"] for v in sample]
    count = len(example["x"]).to_bytes(1, "little")
    labels = mini_radix(example["labels"], given["labels"])
    if config["name"] == "raw":
        body = count + b"".join(struct.pack("<f", v) for v in flat) + labels
    else:
        scale, s = max(abs(v) for v in flat), config.get("m", 8) - 1
        codes = mini_codes(flat, scale, s, config.get("rounding", "floor"), mini_word(key), 0)
        unsigned = min(flat) >= 0
        packed = mini_radix([c - s for c in codes], s + 1) if unsigned else mini_radix(codes, 2 * s + 1)
        body = bytes([0x10 if unsigned else 0]) + count + struct.pack("<f", scale) + packed + labels
    shape = "x".join(map(str, given["shape"]))
    spec = f"{shape} {given['max_samples']} {given['labels']}"
    payload = mini_frame(mini_identity(config["name"], fields_of(config)), spec, key, body)
    assert payload.hex(" ") == bytes.fromhex(example["payload"]).hex(" ")


@pytest.mark.parametrize("n", [0, 1, 42, 319, 320, 321, 2752, 3001])
@pytest.mark.parametrize("levels", [3, 5, 15, 255])
def test_packing_is_as_written(n: int, levels: int) -> None:
    codes = rng.integers(Key(n), n, levels)
    assert mini_radix(codes.tolist(), levels) == pack.pack_radix(codes, levels)
    assert mini_planar((codes % 4).tolist(), 2) == pack.pack_bits(codes % 4, 2)


def test_the_table_of_groups() -> None:
    rows = [line for line in TEXT.splitlines() if re.match(r"\| [Lkw] \|", line)]
    levels, digits, widths = ([int(cell) for cell in row.split("|")[2:-1]] for row in rows)
    assert [pack.radix_group(level) for level in levels] == list(zip(digits, widths, strict=True))
    assert [mini_group(level) for level in levels] == list(zip(digits, widths, strict=True))
