from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquant.keys import Direction, Key, Purpose

FIELDS = {"round": 22, "sensor": 22, "purpose": 5, "direction": 1, "part": 10, "stream": 4}
BASE = Key(7, 8, 9, 10, Purpose.DATA, Direction.DOWN, 11, 12)


def fields(key: Key) -> tuple[int, ...]:
    return (key.round, key.sensor, int(key.purpose), int(key.direction), key.part, key.stream)


keys = st.builds(
    Key,
    seed=st.just(3),
    round=st.integers(0, 2**22 - 1),
    sensor=st.integers(0, 2**22 - 1),
    purpose=st.sampled_from(Purpose),
    direction=st.sampled_from(Direction),
    part=st.integers(0, 2**10 - 1),
    stream=st.integers(0, 15),
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(keys, keys)
def test_words_differ_exactly_where_fields_do(a: Key, b: Key) -> None:
    assert 0 <= a.word < 1 << 64
    assert (a.word == b.word) == (fields(a) == fields(b))


def test_words_of_neighbours_differ() -> None:
    words = {Key(1, round=r, sensor=s, part=p).word for r in range(20) for s in range(20) for p in range(20)}
    assert len(words) == 8000


def test_the_seed_changes_the_word_and_the_run_does_not() -> None:
    assert len({Key(seed).word for seed in range(1000)}) == 1000
    assert Key(1, run=5).word == Key(1, run=6).word


@pytest.mark.parametrize("name", FIELDS)
def test_fields_outside_their_range_are_refused(name: str) -> None:
    top = 1 << FIELDS[name]
    for value in (-1, top):
        with pytest.raises(ValueError, match=f"{name}={value} is outside"):
            Key(0, **{name: value})
    if name not in ("purpose", "direction"):
        assert getattr(Key(0, **{name: top - 1}), name) == top - 1


@pytest.mark.parametrize("name", ["seed", "run"])
def test_seed_and_run_have_64_bits(name: str) -> None:
    given = {"seed": 0, name: 2**64 - 1}
    assert getattr(Key(**given), name) == 2**64 - 1
    for value in (-1, 2**64):
        with pytest.raises(ValueError, match=f"key: {name}="):
            Key(**{**given, name: value})


def test_fold_sets_what_is_given_and_keeps_the_rest() -> None:
    assert BASE.fold() == BASE
    folded = BASE.fold(round=1, sensor=0, purpose=Purpose.PLAIN, direction=Direction.UP, part=0, stream=2)
    assert folded == Key(7, 8, 1, 0, Purpose.PLAIN, Direction.UP, 0, 2)
    assert Key(7, 8, 9, 10, Purpose.DATA, Direction.DOWN, 11, 12) == BASE
    assert BASE.word != folded.word
