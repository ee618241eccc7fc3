"""docs/wire-format.md, taken at its word: a second implementation from its rules alone, and its examples.

The implementation below uses integers, CRC-32 and float32 roundings, nothing of fedquant; the examples
are the golden bytes of the format.
"""

from __future__ import annotations

import math
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fedquant import registry
from fedquant.codecs.base import Spec
from fedquant.codecs.data import DataSpec
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
    return str(value)


def mini_frame(identity: str, spec: str, key: dict[str, int], body: bytes) -> bytes:
    data = b"\x01"
    for text in (identity, spec):
        data += struct.pack("<I", len(text)) + text.encode()
    data += struct.pack("<QII", key["run"], key.get("round", 0), key.get("sensor", 0))
    data += bytes([key.get("purpose", 0), key.get("direction", 0)]) + struct.pack("<H", key.get("part", 0))
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


def mini_groups(config: dict[str, Any], spec: dict[str, Any], default: str) -> list[tuple[int, int]]:
    scope, n = config.get("scope", default), spec["size"]
    ends = (
        [n] if scope == "whole" else spec["segments"] if scope == "segment" else [*range(scope, n, scope), n]
    )
    return list(zip([0, *ends], ends, strict=False))


def mini_body(config: dict[str, Any], spec: dict[str, Any], word: int, x: list[float]) -> bytes:
    name = config["name"]
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
    x = np.array(example["x"], spec.dtype)
    assert codec.encode(x, spec, key, codec.init(spec))[0].hex(" ") == payload.hex(" ")
    assert codec.decode(payload, spec, key).tolist() == np.array(example["decoded"], spec.dtype).tolist()


DEFAULTS = {("qsgd", "bits"): 4, ("uniform", "bits"): 4.0, ("dataq", "m"): 8}
SIMPLE = ("float64", "float32", "float16", "qsgd", "terngrad", "sign", "uniform", "topk")
WRITTEN = [e for e in VECTORS if e["codec"]["name"] in SIMPLE and "entropy" not in e["codec"]]


@pytest.mark.parametrize(
    "example",
    WRITTEN,
    ids=ids(WRITTEN),
)
def test_vectors_from_the_text_alone(example: dict[str, Any]) -> None:
    config, spec, key = example["codec"], example["spec"], example["key"]
    body = mini_body(config, spec, mini_word(key), [float(v) for v in example["x"]])
    identity = mini_identity(config["name"], fields_of(config))
    assert mini_frame(identity, spec_text(spec), key, body).hex(" ") == bytes.fromhex(example["payload"]).hex(
        " "
    )


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
