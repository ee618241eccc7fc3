"""DataQ where each sample is scaled by its l2 norm, and its levels are an index."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedquant import registry, wire
from fedquant.codecs import lattice
from fedquant.codecs.data import DataSpec
from fedquant.codecs.dataq import DataQ
from fedquant.errors import CodecError, ConfigError
from fedquant.wire import NO_KNOBS
from tests.codecs.test_dataq import KEY, QUICK, batch, body, sparse, through


def test_known_values_of_l2() -> None:
    x = np.array([[3.0, -4.0], [0.0, 0.0], [0.0, 2.0]], np.float32)
    y, spec = np.array([1, 2, 3]), DataSpec((2,), 3, 7)
    assert through(DataQ(6, "l2"), x, y, spec).tolist() == [[3.0, -4.0], [0.0, 0.0], [0.0, 2.0]]
    assert through(DataQ(3, "l2"), x, y, spec).tolist() == [[2.5, -2.5], [0.0, 0.0], [0.0, 2.0]]
    data = body(DataQ(3, "l2"), x, y, spec)
    # 13 vectors with a² + b² ≤ 4: 4 bits each of the two samples that are not zero; then 9 bits of labels
    assert len(data) == 1 + 1 + 12 + 1 + 2
    assert np.frombuffer(data, "<f4", 3, 2).tolist() == [5.0, 0.0, 2.0]


@QUICK
@given(st.integers(1, 40), st.integers(2, 60), st.sampled_from(["floor", "nearest", "stochastic"]))
def test_a_decoder_of_l2_learns_the_rounding_from_the_payload(d: int, m: int, rounding: str) -> None:
    x, y, spec = batch(9, d)
    payload = DataQ(m, "l2", rounding).encode(x, y, spec, KEY)
    back, _ = DataQ(m, "l2").decode(payload, spec, KEY)
    assert np.array_equal(back, through(DataQ(m, "l2", rounding), x, y, spec))
    with pytest.raises(CodecError, match="checksum differs"):
        DataQ(m).decode(payload, spec, KEY)


@QUICK
@given(st.integers(1, 200), st.integers(2, 12))
def test_indices_are_never_longer_than_those_of_s(d: int, m: int) -> None:
    x, y, spec = batch(20, d)
    simplex = DataQ(m, "l2", code="simplex")
    assert len(body(DataQ(m, "l2"), x, y, spec)) <= len(body(simplex, x, y, spec))
    assert np.array_equal(through(DataQ(m, "l2"), x, y, spec), through(simplex, x, y, spec))


@pytest.mark.parametrize("m", [2, 8, 65536])
def test_l2_of_denormal_numbers(m: int) -> None:
    x = sparse(5, (6,)) * np.float32(1e-43)
    back = through(DataQ(m, "l2"), x, np.zeros(5, int), DataSpec((6,), 5, 1)).astype(float)
    norms = np.linalg.norm(x.astype(float), axis=1, keepdims=True)
    assert (norms > 0).any()
    # the norm is rounded up and the result to nearest, both to a multiple of 2**-149
    assert (np.abs(back - x) <= (norms + 2.0**-149) / (m - 1) + 2.0**-150).all()


def test_norms_that_do_not_fit_are_refused() -> None:
    x = np.full((1, 4), np.finfo(np.float32).max, np.float32)
    with pytest.raises(CodecError, match="does not fit float32; scale by the largest magnitude"):
        DataQ(8, "l2").encode(x, np.zeros(1, int), DataSpec((4,), 1, 2), KEY)
    x[0, 1:] = 0
    assert through(DataQ(8, "l2"), x, np.zeros(1, int), DataSpec((4,), 1, 2)).tolist() == x.tolist()


def test_stochastic_rounding_by_l2_is_unbiased() -> None:
    n = 20000
    x = np.tile(np.array([0.6, -0.8], np.float32), (n, 1))
    back = through(DataQ(3, "l2", "stochastic"), x, np.zeros(n, int), DataSpec((2,), n, 1))
    # levels are ½ apart: sd at most ¼; 5 sigma of the mean
    assert (np.abs(back.astype(float).mean(axis=0) - [0.6, -0.8]) < 5 * 0.25 / math.sqrt(n)).all()


def test_simplex_needs_l2() -> None:
    with pytest.raises(ConfigError, match="numbers vectors of known l2 norm; set scale: l2"):
        registry.create("data_codec", {"name": "dataq", "code": "simplex"})


def test_simplex_refuses_what_would_take_minutes() -> None:
    spec = DataSpec((3072,), 2, 0)
    with pytest.raises(CodecError, match="too long for d=3072 and m=65536; use code: auto"):
        DataQ(65536, "l2", code="simplex").encode(np.ones((2, 3072), np.float32), np.zeros(0, int), spec, KEY)


def test_levels_out_of_range_are_refused() -> None:
    codec, spec = DataQ(3, "l2", code="simplex"), DataSpec((3,), 1, 0)
    index = lattice.simplex(3, 3, "floor")
    beyond = index.rank(np.array([4, 0, 0]))  # in S, but only up to 2 is a level
    data = bytes([0, 1]) + np.float32(1).tobytes() + lattice.pack_indices([beyond], index.bits)
    with pytest.raises(CodecError, match="not below m = 3"):
        codec.decode(wire.frame(data, codec.context(spec, KEY, NO_KNOBS)), spec, KEY)
