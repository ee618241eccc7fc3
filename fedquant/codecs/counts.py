"""Counts on the wire: unsigned, little-endian, in as few bytes as the largest possible one takes."""

from __future__ import annotations

from fedquant.errors import CodecError


def count_size(most: int) -> int:
    """Bytes of a count in [0, most]."""
    return (most.bit_length() + 7) // 8


def pack_count(n: int, most: int) -> bytes:
    """The bytes of n in [0, most]."""
    return n.to_bytes(count_size(most), "little")


def unpack_count(data: bytes, at: int, most: int, what: str) -> int:
    """The count at byte `at`. Raises CodecError where it is cut off or above `most`."""
    part = data[at : at + count_size(most)]
    n = int.from_bytes(part, "little")
    if len(part) != count_size(most) or n > most:
        raise CodecError(f"{what}: the count is cut off or above {most}")
    return n
