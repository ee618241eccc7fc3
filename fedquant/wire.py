"""The frame around every payload, and the only code that knows it.

    byte 0      version (low 4 bits) and flags
    bytes 1–4   CRC-32, little-endian, of: context, then byte 0, then everything after byte 4
    flag PART   u16: which part of a gradient this is
    flag CONFIG u16 n, then n bytes of JSON: what wrote the payload (files only)
    the rest    the codec's body

The context is what both sides already know (codec, spec, run, round, sensor, purpose, direction, part,
knobs), so a payload from another context is refused though nothing of it is sent. The checksum finds
accidents; it authenticates nobody (TLS and node keys do).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fedquant.errors import CodecError
from fedquant.keys import Key

WIRE_VERSION: Final = 1
HEADER_SIZE: Final = 5
MAX_CONFIG: Final = 0xFFFF

_PART: Final = 0x10
_CONFIG: Final = 0x20
_KNOWN: Final = 0x0F | _PART | _CONFIG
_CONTEXT = struct.Struct("<QIIBBH")
_CRC = struct.Struct("<I")
_U16 = struct.Struct("<H")

Knobs = Mapping[str, int | bytes]
"""What the server sets for a round: integers (64-bit, signed) or bytes by name."""
NO_KNOBS: Final[Knobs] = MappingProxyType({})


@dataclass(frozen=True)
class Context:
    """What sender and receiver know already: it enters the checksum and is never sent.

    `identity` is the CRC-32 so far over wire version, codec and spec.
    """

    identity: int
    key: Key
    knobs: Knobs

    def checksum(self) -> int:
        """CRC-32 over identity, run, round, sensor, purpose, direction, part and knobs."""
        key = self.key
        crc = zlib.crc32(
            _CONTEXT.pack(key.run, key.round, key.sensor, key.purpose, key.direction, key.part),
            self.identity,
        )
        for name in sorted(self.knobs):
            crc = zlib.crc32(_knob_bytes(name, self.knobs[name]), crc)
        return crc


def _knob_bytes(name: str, value: int | bytes) -> bytes:
    label = name.encode()
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise CodecError(f"knob {name}={value} does not fit 64 bits")
        data, kind = value.to_bytes(8, "little", signed=True), b"i"
    else:
        data, kind = bytes(value), b"b"
    return _U16.pack(len(label)) + label + kind + struct.pack("<I", len(data)) + data


def identity(*fields: str) -> int:
    """CRC-32 of the wire version and the given descriptions, each with its length before it."""
    crc = zlib.crc32(bytes([WIRE_VERSION]))
    for field in fields:
        data = field.encode()
        crc = zlib.crc32(struct.pack("<I", len(data)) + data, crc)
    return crc


def frame(body: bytes, context: Context, config: bytes | None = None) -> bytes:
    """The payload that carries `body`. Raises CodecError for a config over 65,535 bytes."""
    head, extra = WIRE_VERSION, b""
    if context.key.part:
        head |= _PART
        extra = _U16.pack(context.key.part)
    if config is not None:
        if len(config) > MAX_CONFIG:
            raise CodecError(f"frame: config has {len(config)} bytes, the limit is {MAX_CONFIG}")
        head |= _CONFIG
        extra += _U16.pack(len(config)) + config
    first = bytes([head])
    crc = zlib.crc32(body, zlib.crc32(first + extra, context.checksum()))
    return b"".join((first, _CRC.pack(crc), extra, body))


def unframe(payload: bytes, context: Context) -> bytes:
    """The body of a payload; raises CodecError where it is damaged or from another context."""
    start, part, _ = _layout(payload)
    if part != context.key.part:
        raise CodecError(f"payload: part {part}, expected part {context.key.part}")
    crc = zlib.crc32(payload[:1], context.checksum())
    crc = zlib.crc32(memoryview(payload)[HEADER_SIZE:], crc)
    if crc != _CRC.unpack_from(payload, 1)[0]:
        key = context.key
        raise CodecError(
            f"payload of {len(payload)} bytes: checksum differs; it is damaged, or not for run "
            f"{key.run:016x}, round {key.round}, sensor {key.sensor}, {key.purpose.name.lower()} "
            "with this codec, spec and knobs"
        )
    return payload[start:]


def part_of(payload: bytes) -> int:
    """Which part a payload says it is (not yet verified). Raises CodecError."""
    return _layout(payload)[1]


def config_of(payload: bytes) -> bytes | None:
    """The embedded JSON of a payload (not yet verified), or None. Raises CodecError."""
    return _layout(payload)[2]


def _layout(payload: bytes) -> tuple[int, int, bytes | None]:
    """(where the body starts, part, config)."""
    if len(payload) < HEADER_SIZE:
        raise CodecError(f"payload: {len(payload)} bytes, a header alone has {HEADER_SIZE}")
    head = payload[0]
    if head & 0x0F != WIRE_VERSION or head & ~_KNOWN:
        raise CodecError(f"payload: first byte {head:#04x} is not of wire version {WIRE_VERSION}")
    at, part, config = HEADER_SIZE, 0, None
    if head & _PART:
        if len(payload) < at + 2:
            raise CodecError("payload: cut off in its part number")
        part = _U16.unpack_from(payload, at)[0]
        at += 2
        if part == 0:
            raise CodecError("payload: part 0 must not be written")
    if head & _CONFIG:
        size = _U16.unpack_from(payload, at)[0] if len(payload) >= at + 2 else MAX_CONFIG + 1
        if len(payload) < at + 2 + size:
            raise CodecError("payload: cut off in its config")
        config = payload[at + 2 : at + 2 + size]
        at += 2 + size
    return at, part, config
