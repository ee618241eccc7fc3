"""A short run of the fuzz harness over every codec configuration, header and message.

`python -m tests.fuzz --cases 10000000 --seed 7` is a long one.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fedquant import registry
from fedquant.errors import CodecError
from tests.fuzz import harness
from tests.fuzz.__main__ import main
from tests.fuzz.configs import configs, default, label
from tests.fuzz.formats import MESSAGES, Format, formats, subjects
from tests.fuzz.mutate import MUTATIONS

SEED = 1
KINDS: tuple[registry.Kind, ...] = ("codec", "data_codec")
CASES = 100_000  # of all subjects together
PLAIN = {*MESSAGES, "knobs", "header"} | {
    label(default(kind, name)) for kind in KINDS for name in registry.names(kind)
}
every_subject = pytest.mark.parametrize("subject", subjects())


@every_subject
def test_bytes_are_refused_or_soundly_read(subject: str) -> None:
    tally = harness.run(subject, SEED, 0, CASES // len(subjects()))
    assert tally.refused > 0
    # at an extreme setting a codec may send next to nothing that could be changed
    assert tally.reached > 0 or subject not in PLAIN, "no changed body was ever read to its end"
    routes = 2 if formats(subject)[0].frame else 1
    assert len(tally.kinds) == routes * len(MUTATIONS)


@every_subject
def test_huge_lengths_at_every_place(subject: str) -> None:
    for case in harness.lengths(subject):
        harness.judge(subject, SEED, case)


@every_subject
def test_memory_is_bounded_by_the_spec(subject: str) -> None:
    assert 0 < harness.peak(subject, SEED, 0, 40) <= 1


def test_every_registered_codec_is_a_subject() -> None:
    assert set(subjects()) > PLAIN
    assert len(subjects()) == 6 + sum(len(configs(kind)) for kind in KINDS)


# ---- the harness finds what it is for


def sound(payload: bytes) -> None:
    if payload != b"\1valid":
        raise CodecError("not the one")


def subject_of(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[bytes], None], frame: bool = True, exact: bool = False
) -> str:
    framed = (lambda body, config: b"\1" + body) if frame else None
    form = Format("spec", (b"valid" if frame else b"\1valid",), framed, read, 10, exact)
    monkeypatch.setattr(harness, "formats", lambda subject: (form,))
    return "planted"


@pytest.mark.parametrize("frame", [True, False])
def test_a_sound_reader_passes(monkeypatch: pytest.MonkeyPatch, frame: bool) -> None:
    tally = harness.run(subject_of(monkeypatch, sound, frame, exact=not frame), SEED, 0, 2000)
    assert tally.cases == 2000 == tally.refused + tally.accepted
    assert tally.accepted > 0
    assert tally.reached == 0


def test_another_error_is_a_failure_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(payload: bytes) -> None:
        if len(payload) == 4:
            raise IndexError("out of range")
        sound(payload)

    subject = subject_of(monkeypatch, read)
    with pytest.raises(harness.Failure, match="got: IndexError: out of range") as caught:
        harness.run(subject, SEED, 0, 2000)
    line = next(line for line in str(caught.value).splitlines() if "again" in line)
    number = int(line.split("--start ")[1].split()[0])
    assert line == f"  again: python -m tests.fuzz --only 'planted' --seed 1 --start {number} --cases 1"
    harness.run(subject, SEED, 0, number)
    with pytest.raises(harness.Failure):
        harness.run(subject, SEED, number, 1)


@pytest.mark.parametrize(("frame", "exact"), [(True, False), (False, True)])
def test_damage_that_is_accepted_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, frame: bool, exact: bool
) -> None:
    subject = subject_of(monkeypatch, lambda payload: None, frame, exact)
    with pytest.raises(harness.Failure, match="expected a CodecError, got: accepted"):
        harness.run(subject, SEED, 0, 2000)


def test_a_valid_payload_that_is_refused_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(payload: bytes) -> None:
        raise CodecError("never")

    with pytest.raises(harness.Failure, match="expected acceptance, got: refused: never"):
        harness.run(subject_of(monkeypatch, read), SEED, 0, 2000)


def test_a_wild_allocation_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(payload: bytes) -> None:
        if len(payload) > 8:
            bytearray(1 << 20)
        sound(payload)

    with pytest.raises(harness.Failure, match="bytes allocated, allowed"):
        harness.peak(subject_of(monkeypatch, read), SEED, 0, 200)


def test_a_case_is_a_function_of_its_number_and_seed() -> None:
    def data(seed: int, start: int, n: int) -> list[bytes]:
        return [case.data for case in harness.cases('{"name":"qsgd"}', seed, start, n)]

    assert data(1, 5, 20) == data(1, 0, 25)[5:]
    assert data(1, 0, 25) != data(2, 0, 25)
    far = 3 << 20  # beyond the cases of one key
    assert data(1, far, 5) == data(1, far - 2, 7)[2:]
    assert data(1, far, 5) != data(1, 0, 5)


# ---- the command


def test_the_command_tells_what_became_of_cases(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(total=150, seed=3, only="knobs", start=7)
    assert done.value.code == 0
    told = capsys.readouterr().out
    expected = harness.run("knobs", 3, 7, 150)
    assert [c.strip() for c in told.split("knobs")[1].split("│")[1:5]] == [
        "150",
        str(expected.refused),
        str(expected.accepted),
        str(expected.reached),
    ]
    assert "0 of 1 subjects failed" in told


def test_the_command_shows_failures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subject_of(monkeypatch, lambda payload: None)
    with pytest.raises(SystemExit) as done:
        main(total=500, seed=3, only="knobs", start=0)
    assert done.value.code == 1
    told = capsys.readouterr().out
    assert "again: python -m tests.fuzz --only 'knobs' --seed 3" in told
    assert "1 of 1 subjects failed" in told


def test_the_command_names_an_unknown_subject() -> None:
    with pytest.raises(SystemExit, match="unknown subject 'knob': did you mean 'knobs'"):
        main(total=1, seed=3, only="knob", start=0)
