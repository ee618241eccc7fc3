"""What gradient codecs and data codecs share: YAML names them, and checksums know them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Set
from dataclasses import MISSING, Field, fields
from functools import lru_cache
from typing import Any, ClassVar, Final, Protocol, final

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from fedquant import registry, wire
from fedquant.errors import CodecError
from fedquant.keys import Key
from fedquant.wire import Knobs

ENCODER_ONLY: Final = {"encoder_only": True}
"""Field metadata: the decoder works without knowing this field."""


class AnySpec(Hashable, Protocol):
    """A description of what is coded; `identity` enters every payload's checksum."""

    @property
    def identity(self) -> str: ...


class Configured:
    """A named frozen dataclass that YAML can name: shared by gradient codecs and data codecs."""

    name: ClassVar[str]
    kind: ClassVar[registry.Kind]
    knob_names: ClassVar[Set[str]] = frozenset()
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if not hasattr(cls, "name"):  # a field of type Codec: YAML may give any codec's name

            def read(value: Any) -> Any:
                return value if isinstance(value, cls) else registry.create(cls.kind, value)

            return core_schema.no_info_plain_validator_function(
                read, serialization=core_schema.plain_serializer_function_ser_schema(registry.resolved)
            )
        return handler(source)

    @property
    def accepted_knobs(self) -> Set[str]:
        """The knobs it takes: its own, and for a wrapper those of what it wraps."""
        return self.knob_names

    @property
    def identity(self) -> str:
        """Text that enters every payload's checksum: the name and what a decoder must agree on."""
        return _identity(self)

    @final
    def context(self, spec: AnySpec, key: Key, knobs: Knobs) -> wire.Context:
        """What sender and receiver know already. Raises CodecError for a knob this codec lacks."""
        if knobs and (unknown := knobs.keys() - self.accepted_knobs):
            raise CodecError(
                f"{self.name}: unknown knobs {sorted(unknown)}, it has {sorted(self.accepted_knobs)}"
            )
        return wire.Context(_context_identity(self, spec), key, knobs)


@lru_cache(maxsize=1024)
def _identity(codec: Configured) -> str:
    relevant: dict[str, Any] = {}
    for field in fields(codec):
        value = getattr(codec, field.name)
        if field.metadata.get("encoder_only") or (field.default is not MISSING and value == field.default):
            continue
        relevant[field.name] = value.identity if isinstance(value, Configured) else value
    return json.dumps([codec.name, relevant], sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=1024)
def _context_identity(codec: Configured, spec: AnySpec) -> int:
    """The checksum so far over what is constant in a run."""
    return wire.identity(codec.identity, spec.identity)
