"""Damaged and hostile bytes, and what must come of them: a CodecError or a sound result, nothing else.

Case i of a seed is a function of (subject, seed, i) alone. A quarter of the cases damage a payload as a
link would, which its checksum must find (a random change goes unseen once in 2**32); the others damage the
body and frame it anew with a right checksum, as a hostile sensor would, so that body decoders are reached.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from fedquant.errors import CodecError
from tests.fuzz.formats import Format, formats
from tests.fuzz.mutate import MUTATIONS, Draws, Mutation, extend, overwrite, truncate

PLACES: Final = 40
CONFIG: Final = b'{"name":"any"}'
# Four times what was measured: 16,512 bytes for short payloads (a table of float64 codes), and 20,000
# plus 4.5 for each byte of a payload and its result, when decoders and add_decoded both hold theirs.
MEMORY_FLOOR: Final = 1 << 16
MEMORY_SLOPE: Final = 18


class Failure(AssertionError):
    """A case that came out wrong, with the command that runs it again."""


@dataclass(frozen=True)
class Case:
    """Bytes to read; `expected` says whether they must be accepted, None where both are right.

    number: what `cases` makes it from; None where it is not one of theirs.
    """

    number: int | None
    kind: str
    format: Format
    data: bytes
    expected: bool | None


@dataclass
class Tally:
    """What became of cases. `reached`: accepted bodies that no encoder wrote, or messages nobody sent."""

    cases: int = 0
    refused: int = 0
    accepted: int = 0
    reached: int = 0
    kinds: set[str] = field(default_factory=set)

    def add(self, case: Case, accepted: bool) -> None:
        """Counts one outcome."""
        self.cases += 1
        self.accepted += accepted
        self.refused += not accepted
        self.reached += accepted and case.expected is None
        self.kinds.add(case.kind)


def cases(subject: str, seed: int, start: int, n: int) -> Iterator[Case]:
    """Cases start … start+n−1 of a subject."""
    known = formats(subject)
    return (_case(known, Draws(seed, number), number) for number in range(start, start + n))


def _case(known: tuple[Format, ...], d: Draws, number: int) -> Case:
    form, mutation = d.pick(known), d.pick(MUTATIONS)
    i, j, route = d.below(len(form.valid)), d.below(len(form.valid)), d.below(64)
    if form.frame is None or route < 16:
        data = mutation(d, form.payloads[i], form.payloads[j])
        return Case(number, f"{mutation.__name__} on the way", form, data, _expected(form, data, mutation))
    body = mutation(d, form.valid[i], form.valid[j])
    data = form.frame(body, CONFIG if route < 20 else None)
    return Case(number, f"{mutation.__name__} when written", form, data, True if body in form.valid else None)


def _expected(form: Format, data: bytes, mutation: Mutation | None = None) -> bool | None:
    """What must come of a payload damaged on the way."""
    if data in form.payloads:
        return True
    return False if form.frame or (form.exact and mutation in (truncate, extend)) else None


def lengths(subject: str) -> Iterator[Case]:
    """The largest 4- and 8-byte integers at each of the first places of a payload and of its body."""
    for form in formats(subject):
        for width in (4, 8):
            for at in range(min(PLACES, len(form.payloads[0]))):
                data = overwrite(form.payloads[0], at, b"\xff" * width)
                yield Case(None, f"{width} bytes of 255 at {at}", form, data, _expected(form, data))
            if form.frame is None:
                continue
            for at in range(min(PLACES, len(form.valid[0]))):
                body = overwrite(form.valid[0], at, b"\xff" * width)
                expected = True if body in form.valid else None
                yield Case(None, f"the same in the body at {at}", form, form.frame(body, None), expected)


def judge(subject: str, seed: int, case: Case) -> bool:
    """Whether the case's bytes were accepted. Raises Failure where the outcome is not a right one."""
    try:
        case.format.read(case.data)
    except CodecError as error:
        accepted, told = False, f"refused: {error}"
    except Exception as error:
        raise Failure(_report(subject, seed, case, f"{type(error).__name__}: {error}")) from error
    else:
        accepted, told = True, "accepted"
    if case.expected is not None and accepted != case.expected:
        raise Failure(_report(subject, seed, case, told))
    return accepted


def run(subject: str, seed: int, start: int, n: int) -> Tally:
    """Judges cases start … start+n−1. Raises Failure at the first that comes out wrong."""
    tally = Tally()
    for case in cases(subject, seed, start, n):
        tally.add(case, judge(subject, seed, case))
    return tally


def peak(subject: str, seed: int, start: int, n: int) -> float:
    """The largest share of its `allowance` that a case used. Raises Failure for one above 1."""
    worst = 0.0
    for form in formats(subject):  # tables that decoders keep are no case's
        for payload in form.payloads:
            form.read(payload)
    for case in cases(subject, seed, start, n):
        tracemalloc.start()
        try:
            judge(subject, seed, case)
            used = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        share = used / allowance(case)
        if share > 1:
            raise Failure(_report(subject, seed, case, f"{used} bytes allocated, allowed {allowance(case)}"))
        worst = max(worst, share)
    return worst


def allowance(case: Case) -> int:
    """Bytes that reading a case may hold at once, by the sizes of its payload and of its largest result."""
    return MEMORY_FLOOR + MEMORY_SLOPE * (case.format.size + len(case.data))


def _report(subject: str, seed: int, case: Case, told: str) -> str:
    wanted = {True: "acceptance", False: "a CodecError", None: "a CodecError or a sound result"}
    command = "python -m pytest tests/fuzz -k lengths"
    if case.number is not None:
        command = f"python -m tests.fuzz --only '{subject}' --seed {seed} --start {case.number} --cases 1"
    data = case.data
    shown = data.hex() if len(data) <= 200 else f"{data[:200].hex()}… ({len(data)} bytes)"
    return (
        f"{subject}, case {case.number} ({case.kind}; {case.format.label})\n"
        f"  expected {wanted[case.expected]}, got: {told}\n"
        f"  again: {command}\n"
        f"  payload: {shown}"
    )
