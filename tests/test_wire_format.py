"""docs/wire-format.md, taken at its word: its examples are the golden bytes of the format.

fedquant writes them, and so does `mini`, a second implementation made from the text alone.
"""

from __future__ import annotations

import json
import re
import struct
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
from tests.mini import (
    MiniBall,
    mini_body,
    mini_codes,
    mini_draw,
    mini_frame,
    mini_group,
    mini_identity,
    mini_planar,
    mini_radix,
    mini_word,
)

TEXT = (Path(__file__).parents[1] / "docs" / "wire-format.md").read_text(encoding="utf-8")
EXAMPLES = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
VECTORS = [e for e in EXAMPLES if "spec" in e]
SAMPLES = [e for e in EXAMPLES if "data_spec" in e]
DRAWS = [e for e in EXAMPLES if "word" in e]


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
