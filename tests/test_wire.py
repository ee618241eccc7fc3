from __future__ import annotations

import zlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant import wire
from fedquant.errors import CodecError
from fedquant.keys import Direction, Key, Purpose

KEY = Key(1, 2, 3, 4, Purpose.GRADIENT, Direction.UP)
HERE = wire.Context(wire.identity("codec", "spec"), KEY, {"bits": 3, "table": b"ab"})


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.binary(max_size=300), st.integers(0, 1023), st.none() | st.binary(max_size=50))
def test_round_trip(body: bytes, part: int, config: bytes | None) -> None:
    context = replace(HERE, key=KEY.fold(part=part))
    payload = wire.frame(body, context, config)
    assert wire.unframe(payload, context) == body
    assert wire.part_of(payload) == part
    assert wire.config_of(payload) == config
    extra = (2 if part else 0) + (0 if config is None else 2 + len(config))
    assert len(payload) == wire.HEADER_SIZE + extra + len(body)


def test_layout_is_the_documented_one() -> None:
    payload = wire.frame(b"body", HERE)
    crc = zlib.crc32(b"\x01" + b"body", HERE.checksum())
    assert payload == b"\x01" + crc.to_bytes(4, "little") + b"body"


@pytest.mark.parametrize("part", [0, 300])
@pytest.mark.parametrize("config", [None, b"", b'{"a":1}'])
def test_every_flipped_bit_and_every_truncation_is_refused(part: int, config: bytes | None) -> None:
    context = replace(HERE, key=KEY.fold(part=part))
    payload = wire.frame(b"some body", context, config)
    for bit in range(8 * len(payload)):
        bad = bytearray(payload)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CodecError):
            wire.unframe(bytes(bad), context)
    for size in range(len(payload)):
        with pytest.raises(CodecError):
            wire.unframe(payload[:size], context)


@pytest.mark.parametrize(
    "change",
    [
        {"round": 9},
        {"sensor": 9},
        {"purpose": Purpose.DATA},
        {"direction": Direction.DOWN},
    ],
)
def test_a_payload_of_another_key_is_refused(change: dict[str, Any]) -> None:
    payload = wire.frame(b"body", HERE)
    with pytest.raises(CodecError, match="checksum differs"):
        wire.unframe(payload, replace(HERE, key=KEY.fold(**change)))


def test_another_run_codec_part_or_knob_is_refused() -> None:
    payload = wire.frame(b"body", HERE)
    others = [
        replace(HERE, key=replace(KEY, run=9)),
        replace(HERE, identity=wire.identity("codec2", "spec")),
        replace(HERE, knobs={"bits": 4, "table": b"ab"}),
        replace(HERE, knobs={"bits": 3, "table": b"ac"}),
        replace(HERE, knobs={"bits": 3}),
        replace(HERE, knobs={}),
    ]
    for other in others:
        with pytest.raises(CodecError, match="checksum differs"):
            wire.unframe(payload, other)
    with pytest.raises(CodecError, match="part 0, expected part 5"):
        wire.unframe(payload, replace(HERE, key=KEY.fold(part=5)))


def test_the_message_names_the_context() -> None:
    with pytest.raises(CodecError, match=r"run 0000000000000002, round 3, sensor 4, gradient"):
        wire.unframe(bytes([1, 0, 0, 0, 0, 7]), HERE)


def test_the_seed_and_the_stream_are_no_part_of_the_context() -> None:
    payload = wire.frame(b"body", HERE)
    assert wire.unframe(payload, replace(HERE, key=replace(KEY.fold(stream=3), seed=77))) == b"body"


def test_knobs_enter_in_any_order_and_with_their_type() -> None:
    assert replace(HERE, knobs={"table": b"ab", "bits": 3}).checksum() == HERE.checksum()
    five = (5).to_bytes(8, "little")
    assert replace(HERE, knobs={"a": 5}).checksum() != replace(HERE, knobs={"a": five}).checksum()
    with pytest.raises(CodecError, match="does not fit 64 bits"):
        replace(HERE, knobs={"a": 1 << 63}).checksum()


def test_identity_marks_where_fields_end() -> None:
    assert len({wire.identity("ab", "c"), wire.identity("a", "bc"), wire.identity("abc")}) == 3


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "0 bytes, a header alone has 5"),
        (bytes([2, 0, 0, 0, 0]), "0x02 is not of wire version 1"),
        (bytes([0x41, 0, 0, 0, 0]), "0x41 is not of wire version 1"),
        (bytes([0x11, 0, 0, 0, 0, 1]), "cut off in its part"),
        (bytes([0x11, 0, 0, 0, 0, 0, 0]), "part 0 must not be written"),
        (bytes([0x21, 0, 0, 0, 0, 1]), "cut off in its config"),
        (bytes([0x21, 0, 0, 0, 0, 2, 0, 65]), "cut off in its config"),
    ],
)
def test_broken_headers_are_named(payload: bytes, message: str) -> None:
    for read in (wire.part_of, wire.config_of, lambda p: wire.unframe(p, HERE)):
        with pytest.raises(CodecError, match=message):
            read(payload)


def test_a_config_has_a_limit() -> None:
    whole = wire.frame(b"x", HERE, b"c" * wire.MAX_CONFIG)
    assert wire.config_of(whole) == b"c" * wire.MAX_CONFIG
    with pytest.raises(CodecError, match=r"65536 bytes, the limit is 65535"):
        wire.frame(b"x", HERE, b"c" * (wire.MAX_CONFIG + 1))
