"""Bytes in and out of Flower messages: one Array whose own type keeps stock strategies from guessing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fedquant.errors import CodecError

if TYPE_CHECKING:
    from flwr.app import RecordDict

_RECORD: Final = "fedquant"
_STYPE: Final = "fedquant.v1"


def wrap(data: bytes) -> RecordDict:
    """A Flower record that carries `data`."""
    from flwr.app import Array, ArrayRecord, RecordDict

    array = Array(dtype="uint8", shape=(len(data),), stype=_STYPE, data=data)
    return RecordDict({_RECORD: ArrayRecord({"bytes": array})})


def unwrap(content: RecordDict) -> bytes:
    """The bytes of a record. Raises CodecError where it carries none."""
    try:
        array = content.array_records[_RECORD]["bytes"]
    except KeyError:
        raise CodecError(f"message: no {_RECORD!r} record in it, got {sorted(content)}") from None
    if array.stype != _STYPE:
        raise CodecError(f"message: carries {array.stype!r}, expected {_STYPE!r}")
    return bytes(array.data)
