from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.errors import CodecError
from fedquant.message import MAX_SENSORS, Hello, Reply, Request, Start, decode_knobs, encode_knobs

QUICK = settings(max_examples=50, deadline=None, derandomize=True)
U32 = st.integers(0, 2**32 - 1)
KNOBS = st.dictionaries(
    st.text(max_size=8),
    st.dictionaries(
        st.text(max_size=8), st.integers(1 - 2**63, 2**63 - 1) | st.binary(max_size=20), min_size=1
    ),
    max_size=3,
)

START = Start(7, 300)
HELLO = Hello(2**64 - 1, (0, 5, 2**22 - 1), (10, 0, 2**32 - 1), 2)
REQUEST = Request(
    7,
    3,
    (1, 4),
    (0, 2),
    (False, True),
    {"codec": {"bits": -3, "table": b"\0\1"}},
    (b"model", b"", b"buffers"),
    2,
    300,
)
REPLY = Reply(7, 3, (1, 4), ((b"abc", b""), (b"", b"x")))
MESSAGES = [START, HELLO, REQUEST, REPLY]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_round_trip(message: Start | Hello | Request | Reply) -> None:
    assert type(message).from_bytes(message.to_bytes()) == message


def test_empty_messages_round_trip() -> None:
    for message in (Start(0, 0), Hello(0, (), ()), Request(0, 0, (), (), (), {}, ()), Reply(0, 0, (), ())):
        assert type(message).from_bytes(message.to_bytes()) == message


@QUICK
@given(st.lists(st.tuples(U32, st.lists(st.binary(max_size=9), min_size=2, max_size=2)), max_size=6))
def test_replies_round_trip(rows: list[tuple[int, list[bytes]]]) -> None:
    reply = Reply(1, 2, tuple(s for s, _ in rows), tuple(tuple(p) for _, p in rows))
    assert Reply.from_bytes(reply.to_bytes()) == reply


@QUICK
@given(KNOBS)
def test_knobs_round_trip(knobs: dict[str, dict[str, int | bytes]]) -> None:
    assert decode_knobs(encode_knobs(knobs)) == knobs


@pytest.mark.parametrize("size", [65533, 65534, 65535, 200_000])
def test_long_knobs_round_trip(size: int) -> None:
    knobs = {"codec": {"range": b"x" * size, "then": 5}}
    data = encode_knobs(knobs)
    assert decode_knobs(data) == knobs
    with pytest.raises(CodecError, match="cut off"):
        decode_knobs(data[:-1])


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_truncated_or_extended_messages_are_refused(message: Start | Hello | Request | Reply) -> None:
    data = message.to_bytes()
    for size in range(len(data)):
        with pytest.raises(CodecError):
            type(message).from_bytes(data[:size])
    with pytest.raises(CodecError, match="1 bytes too many"):
        type(message).from_bytes(data + b"\0")


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_damaged_message_is_refused_or_read(message: Start | Hello | Request | Reply) -> None:
    data = message.to_bytes()
    outcomes = set()
    for bit in range(8 * len(data)):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        try:
            outcomes.add(type(type(message).from_bytes(bytes(bad))))
        except CodecError:
            outcomes.add(CodecError)
    assert outcomes == {type(message), CodecError}


def test_a_message_of_another_kind_is_refused() -> None:
    with pytest.raises(CodecError, match="request: starts with b'fqH2', expected b'fqT2'"):
        Request.from_bytes(HELLO.to_bytes())


def test_too_many_sensors_are_refused_before_they_are_read() -> None:
    head = struct.pack("<4sQII", b"fqH2", 0, 0, MAX_SENSORS + 1)
    with pytest.raises(CodecError, match="4194305 sensors, the limit is 4194304"):
        Hello.from_bytes(head)


def test_payload_offsets_that_fall_are_refused() -> None:
    head = struct.pack("<4sQII", b"fqR1", 0, 0, 1) + struct.pack("<I", 3) + b"\2"
    with pytest.raises(CodecError, match="payload offsets fall"):
        Reply.from_bytes(head + struct.pack("<IQQ", 2, 3, 1) + b"abc")


def test_every_sensor_of_a_reply_has_as_many_slots() -> None:
    for payloads in (((b"a",), (b"b", b"c")), ((b"a",),)):
        with pytest.raises(CodecError, match=r"every one of 2 sensors needs 1 slots"):
            Reply(0, 0, (1, 2), payloads).to_bytes()
    head = struct.pack("<4sQII", b"fqR1", 0, 0, 1) + struct.pack("<I", 3) + b"\2"
    with pytest.raises(CodecError, match="1 payloads, expected 2 for each of 1"):
        Reply.from_bytes(head + struct.pack("<IQ", 1, 0))


def field(data: bytes) -> bytes:
    return struct.pack("<H", len(data)) + data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\5", "cut off"),
        (b"\5\0ab", "cut off"),
        (field(b"codec") + field(b"bits"), "a value is missing"),
        (field(b"\xff") + field(b"bits") + field(b"i\1"), "not UTF-8"),
        (field(b"codec") + field(b"\xff") + field(b"i\1"), "not UTF-8"),
        (field(b"codec") + field(b"bits") + field(b"i"), "bits is neither an integer nor bytes"),
        (field(b"codec") + field(b"bits") + field(b"i" + bytes(9)), "bits is neither an integer nor bytes"),
        (field(b"codec") + field(b"bits") + field(b""), "bits is neither an integer nor bytes"),
    ],
)
def test_broken_knobs_are_named(data: bytes, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        decode_knobs(data)


@pytest.mark.parametrize("value", [0, 1, -1, 127, -128, 128, 2**63 - 1, -(2**63)])
def test_integer_knobs_take_as_few_bytes_as_they_can(value: int) -> None:
    data = encode_knobs({"codec": {"bits": value}})
    assert decode_knobs(data) == {"codec": {"bits": value}}
    assert len(data) == 2 + 5 + 2 + 4 + 2 + 1 + max(1, -(-(max(value, ~value).bit_length() + 1) // 8))


def test_an_integer_knob_over_64_bits_is_refused() -> None:
    with pytest.raises(CodecError, match="64 bits"):
        encode_knobs({"codec": {"bits": 2**63}})


def test_outcomes_are_yes_or_no() -> None:
    data = bytearray(Request(1, 2, (3, 4), (0, 1), (False, True), {}, ()).to_bytes())
    at = data.index(b"\0\1", 20 + 8 + 16)
    assert Request.from_bytes(bytes(data)).delivered == (False, True)
    data[at + 1] = 2
    with pytest.raises(CodecError, match="is 0 or 1"):
        Request.from_bytes(bytes(data))


def test_messages_have_the_bytes_that_they_should() -> None:
    u32, u64 = struct.Struct("<I").pack, struct.Struct("<Q").pack
    assert START.to_bytes() == b"fqS1" + u64(7) + u32(300) + u32(0)
    hello = Hello(7, (1, 4), (10, 20), 2)
    assert hello.to_bytes() == b"fqH2" + u64(7) + b"".join(map(u32, (2, 2, 1, 4, 10, 20)))
    request = Request(7, 3, (1, 4), (0, 2), (False, True), {}, (b"model",), 2, 300)
    head = b"fqT2" + u64(7) + b"".join(map(u32, (3, 2, 2, 300, 1, 4, 0, 2)))
    assert request.to_bytes() == head + b"\0\1" + u32(0) + u32(1) + u64(5) + b"model"
    reply = Reply(7, 3, (1, 4), ((b"abc",), (b"",)))
    head = b"fqR1" + u64(7) + b"".join(map(u32, (3, 2, 1, 4)))
    assert reply.to_bytes() == head + b"\1" + u32(2) + u64(3) + u64(3) + b"abc"


def test_a_start_names_no_sensors() -> None:
    with pytest.raises(CodecError, match="names 1 sensors"):
        Start.from_bytes(struct.pack("<4sQII", b"fqS1", 0, 0, 1))
