"""Everything fedquant raises on purpose.

    FedquantError
    ├── ConfigError   a scenario, an override or a codec's configuration is wrong
    ├── CodecError    a codec refuses its input, or a receiver refuses a payload
    ├── DataError     a data set is missing, broken or too small
    ├── StateError    a node's state file is missing, stale or unreadable
    └── EngineError   a run could not be started, stalled or failed

A message names what was given, what was expected and how to mend it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FedquantError(Exception):
    """Base of every error that fedquant raises on purpose."""


class ConfigError(FedquantError, ValueError):
    """A scenario, an override or a codec's configuration is wrong."""


class CodecError(FedquantError):
    """A codec refuses its input, or a receiver refuses a payload."""


class DataError(FedquantError):
    """A data set is missing, broken or too small."""


class StateError(FedquantError):
    """A node's state file is missing, stale or unreadable."""


class EngineError(FedquantError):
    """A run could not be started, stalled or failed."""


def suggest(given: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the likely one meant, or all there are."""
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "nothing is known here"
