"""What server and nodes say to each other, as bytes. Knows nothing of Flower.

A run begins with a start to each node, which says hello: who is there. A request names the sensors of one
node and carries what they share; a reply carries a fixed number of payload slots a sensor, of length 0 where
it has nothing to say. All integers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fedquant.errors import CodecError
from fedquant.wire import Knobs

MAX_SENSORS: Final = 1 << 22
_LONG: Final = 0xFFFF  # says that a length of four bytes follows
_HEAD = struct.Struct("<4sQII")  # magic, run, round (hello: attempt), sensors
_MAGIC: Final = {"start": b"fqS1", "hello": b"fqH2", "request": b"fqT2", "reply": b"fqR1"}


@dataclass(frozen=True)
class Start:
    """The server's first word to a node: a run begins, or goes on from a checkpoint.

    checkpoint: the round after which it was made; 0 for a run that begins.
    """

    run: int
    checkpoint: int

    def to_bytes(self) -> bytes:
        """The message's bytes."""
        return _HEAD.pack(_MAGIC["start"], self.run, self.checkpoint, 0)

    @classmethod
    def from_bytes(cls, data: bytes) -> Start:
        """Raises CodecError for bytes that are no such message."""
        reader = _Reader(data, "start")
        if reader.count:
            raise CodecError(f"start: names {reader.count} sensors, expected none")
        reader.finish()
        return cls(reader.run, reader.round)


@dataclass(frozen=True)
class Hello:
    """A node's answer to a start: its sensors and how many samples each holds.

    attempt: how many starts of this run the node has heard, 0 where it remembers nothing.
    """

    run: int
    sensors: tuple[int, ...]
    samples: tuple[int, ...]
    attempt: int = 0

    def to_bytes(self) -> bytes:
        """The message's bytes."""
        head = _HEAD.pack(_MAGIC["hello"], self.run, self.attempt, len(self.sensors))
        return head + _u32(self.sensors) + _u32(self.samples)

    @classmethod
    def from_bytes(cls, data: bytes) -> Hello:
        """Raises CodecError for bytes that are no such message."""
        reader = _Reader(data, "hello")
        hello = cls(reader.run, reader.u32(reader.count), reader.u32(reader.count), reader.round)
        reader.finish()
        return hello


@dataclass(frozen=True)
class Request:
    """The server's word to one node for one round.

    settled[i] is the round of sensor i's last payload that the server has judged (0: none) and
    delivered[i] whether it was accepted. knobs: by receiver ("codec", "selection"). payloads: the coded
    model (and buffers), empty where the round needs none. attempt: as in the node's hello. checkpoint: the
    round of the server's last one (0: none), to which this run may have to go back.
    """

    run: int
    round: int
    sensors: tuple[int, ...]
    settled: tuple[int, ...]
    delivered: tuple[bool, ...]
    knobs: dict[str, Knobs]
    payloads: tuple[bytes, ...]
    attempt: int = 0
    checkpoint: int = 0

    def to_bytes(self) -> bytes:
        """The message's bytes."""
        head = _HEAD.pack(_MAGIC["request"], self.run, self.round, len(self.sensors))
        return b"".join(
            (
                head,
                _u32((self.attempt, self.checkpoint)),
                _u32(self.sensors),
                _u32(self.settled),
                bytes(self.delivered),
                _blob(encode_knobs(self.knobs)),
                _blobs(self.payloads),
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Request:
        """Raises CodecError for bytes that are no such message."""
        reader = _Reader(data, "request")
        n = reader.count
        attempt, checkpoint = reader.u32(2)
        sensors, settled = reader.u32(n), reader.u32(n)
        flags = reader.take(n)
        if flags.strip(b"\0\1"):
            raise CodecError("request: whether a payload was delivered is 0 or 1")
        delivered = tuple(map(bool, flags))
        knobs = decode_knobs(reader.blob())
        payloads = reader.blobs()
        reader.finish()
        return cls(
            reader.run, reader.round, sensors, settled, delivered, knobs, payloads, attempt, checkpoint
        )


@dataclass(frozen=True)
class Reply:
    """A node's word to the server: for each of its sensors, one payload a slot."""

    run: int
    round: int
    sensors: tuple[int, ...]
    payloads: tuple[tuple[bytes, ...], ...]

    def to_bytes(self) -> bytes:
        """The message's bytes. Raises CodecError where sensors differ in slots."""
        slots = len(self.payloads[0]) if self.payloads else 0
        if any(len(p) != slots for p in self.payloads) or len(self.payloads) != len(self.sensors):
            raise CodecError(f"reply: every one of {len(self.sensors)} sensors needs {slots} slots")
        head = _HEAD.pack(_MAGIC["reply"], self.run, self.round, len(self.sensors))
        flat = [payload for slot in self.payloads for payload in slot]
        return head + _u32(self.sensors) + bytes([slots]) + _blobs(flat)

    @classmethod
    def from_bytes(cls, data: bytes) -> Reply:
        """Raises CodecError for bytes that are no such message."""
        reader = _Reader(data, "reply")
        sensors = reader.u32(reader.count)
        slots = reader.take(1)[0]
        flat = reader.blobs()
        reader.finish()
        if len(flat) != slots * len(sensors):
            raise CodecError(f"reply: {len(flat)} payloads, expected {slots} for each of {len(sensors)}")
        rows = tuple(tuple(flat[i * slots : (i + 1) * slots]) for i in range(len(sensors)))
        return cls(reader.run, reader.round, sensors, rows)


def encode_knobs(knobs: dict[str, Knobs]) -> bytes:
    """Knobs as they are broadcast: (receiver, name, kind, value) after each other, strings with a length."""
    out = []
    for receiver in sorted(knobs):
        for name in sorted(knobs[receiver]):
            value = knobs[receiver][name]
            if isinstance(value, int):
                if not -(1 << 63) <= value < 1 << 63:
                    raise CodecError(f"knob {receiver}.{name}={value} does not fit 64 bits")
                size = max(value, ~value).bit_length() // 8 + 1  # the sign takes a bit
                kind, data = b"i", value.to_bytes(size, "little", signed=True)
            else:
                kind, data = b"b", value
            out += [_string(field) for field in (receiver.encode(), name.encode(), kind + data)]
    return b"".join(out)


def decode_knobs(data: bytes) -> dict[str, Knobs]:
    """The inverse of `encode_knobs`. Raises CodecError."""
    fields: list[bytes] = []
    at = 0
    while at < len(data):
        start, size = at + 2, int.from_bytes(data[at : at + 2], "little")
        if size == _LONG:
            start, size = at + 6, int.from_bytes(data[at + 2 : at + 6], "little")
        if start + size > len(data):
            raise CodecError("knobs: cut off")
        fields.append(data[start : start + size])
        at = start + size
    if len(fields) % 3:
        raise CodecError("knobs: a value is missing")
    out: dict[str, dict[str, int | bytes]] = {}
    for receiver, name, value in zip(fields[0::3], fields[1::3], fields[2::3], strict=True):
        try:
            knobs, label = out.setdefault(receiver.decode(), {}), name.decode()
        except UnicodeDecodeError:
            raise CodecError("knobs: a name is not UTF-8") from None
        if value[:1] == b"i" and 2 <= len(value) <= 9:
            knobs[label] = int.from_bytes(value[1:], "little", signed=True)
        elif value[:1] == b"b":
            knobs[label] = value[1:]
        else:
            raise CodecError(f"knobs: {label} is neither an integer nor bytes")
    return dict(out)


def _u32(values: Sequence[int]) -> bytes:
    return np.asarray(values, "<u4").tobytes()


def _string(data: bytes) -> bytes:
    size = struct.pack("<H", len(data)) if len(data) < _LONG else struct.pack("<HI", _LONG, len(data))
    return size + data


def _blob(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _blobs(items: Sequence[bytes]) -> bytes:
    ends = np.cumsum([len(b) for b in items], dtype="<u8")
    return b"".join((struct.pack("<I", len(items)), ends.astype("<u8").tobytes(), *items))


class _Reader:
    """Reads a message front to back; every length is checked before it is used."""

    def __init__(self, data: bytes, kind: str) -> None:
        self.data, self.at, self.kind = data, _HEAD.size, kind
        if len(data) < _HEAD.size:
            raise CodecError(f"{kind}: {len(data)} bytes, its head alone has {_HEAD.size}")
        magic, self.run, self.round, self.count = _HEAD.unpack_from(data)
        if magic != _MAGIC[kind]:
            raise CodecError(f"{kind}: starts with {magic!r}, expected {_MAGIC[kind]!r}")
        if self.count > MAX_SENSORS:
            raise CodecError(f"{kind}: {self.count} sensors, the limit is {MAX_SENSORS}")

    def take(self, n: int) -> bytes:
        if self.at + n > len(self.data):
            raise CodecError(f"{self.kind}: cut off at byte {len(self.data)}, needs {self.at + n}")
        self.at += n
        return self.data[self.at - n : self.at]

    def _ints(self, n: int, dtype: str) -> npt.NDArray[Any]:
        return np.frombuffer(self.take(n * np.dtype(dtype).itemsize), dtype)

    def u32(self, n: int) -> tuple[int, ...]:
        return tuple(self._ints(n, "<u4").tolist())

    def blob(self) -> bytes:
        return self.take(self.u32(1)[0])

    def blobs(self) -> tuple[bytes, ...]:
        ends = self._ints(self.u32(1)[0], "<u8").tolist()
        sizes = [end - start for start, end in pairwise([0, *ends])]
        if any(size < 0 for size in sizes):
            raise CodecError(f"{self.kind}: payload offsets fall")
        return tuple(self.take(size) for size in sizes)

    def finish(self) -> None:
        if self.at != len(self.data):
            raise CodecError(f"{self.kind}: {len(self.data) - self.at} bytes too many")
