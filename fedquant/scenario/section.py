"""What every part of a scenario file is."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from fedquant.errors import ConfigError, suggest


class Section(BaseModel):
    """A mapping of known keys; an unknown one is an error that names the likely one meant."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        if isinstance(given, dict) and cls.model_config.get("extra") != "allow":
            for key in given:
                if key not in cls.model_fields:
                    raise ConfigError(f"unknown key {key!r}, {suggest(str(key), cls.model_fields)}")
        return given
