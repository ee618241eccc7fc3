"""Scenarios that descend: their defaults, and what does not go together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedquant.descent import make_descent
from fedquant.errors import ConfigError
from fedquant.plan import make_plan
from fedquant.report.study import Study, jobs
from fedquant.scenario import load
from fedquant.scenario.descent import DescentUplink


def test_defaults_say_what_happens() -> None:
    scenario = load("descent")
    assert scenario.to_dict()["downlink"] == {"codec": {"name": "float64"}, "reference": "model"}
    assert scenario.training.optimizer.name == "none"
    assert scenario.sensors == scenario.gateways == 1
    assert load(scenario.to_json()).to_json() == scenario.to_json()
    assert load("wearables").training.optimizer.name == "sgd"


@pytest.mark.parametrize("method", ["gd", "agd", "hb"])
def test_what_is_not_quantized_travels_as_float64(method: str) -> None:
    for extra in ({}, {"codec": "float64"}):
        uplink = load("descent", {"uplink": {"kind": "descent", "method": method, **extra}}).uplink
        assert isinstance(uplink, DescentUplink)
        assert uplink.codec.name == "float64"
        assert not uplink.quantized


TWO = "task.workers=2"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["uplink.method=dq-gdd"], "uplink.method: unknown method 'dq-gdd': did you mean 'dq-gd'?"),
        (["uplink={kind: descent, method: dq-gd}"], "uplink.codec: Field required"),
        (
            ["uplink.method=agd"],
            "agd quantizes nothing: instead of codec uniform write float64, or take dq-agd",
        ),
        (
            ["uplink.codec=qsgd"],
            "method dq-gd needs a codec whose error a range bounds, uniform or ball, not qsgd",
        ),
        (["uplink.codec=float64"], "method dq-gd needs a codec whose error a range bounds"),
        (["uplink.codec={name: error_feedback, inner: uniform}"], "uniform or ball, not error_feedback"),
        (["uplink.codec.range=2"], "uniform.range: a descent sets the range itself"),
        (["uplink.total_rate=8"], "total_rate is for nq-gd with several sensors, not for dq-gd"),
        (
            ["uplink.total_rate=8", "uplink.method=nq-gd"],
            "total_rate is shared among sensors, this task has one",
        ),
        (
            [TWO, "uplink={kind: descent, method: nq-gd, total_rate: 8, codec: {name: uniform, levels: 9}}"],
            "uniform.levels: total_rate sets the bits",
        ),
        ([TWO], "dq-gd is for one sensor, this task has 2; differential quantization for several is an open"),
        (["task=logistic", "uplink.method=dq-hb"], "logistic is none; use dq-agd"),
        (["task=logistic", "uplink={kind: descent, method: hb}"], "logistic is none; use agd"),
        (
            ["task=watch"],
            "descent needs a convex task (least_squares, matrix or logistic); watch trains a network",
        ),
        (
            ["uplink={kind: gradient, codec: qsgd}"],
            "task least_squares takes uplink.kind: descent, not gradient",
        ),
        (["uplink={kind: data, codec: raw}"], "task least_squares takes uplink.kind: descent, not data"),
        (["downlink.codec=float32"], "downlink: a descent broadcasts its iterate as float64"),
        (["downlink={codec: float64, reference: difference}"], "downlink: a descent broadcasts its iterate"),
        (["training.batch_size=3"], "training.batch_size has no meaning in a descent"),
        (["training.optimizer=adam"], "training.optimizer has no meaning in a descent"),
        (
            [TWO, "uplink.method=nq-gd", "training.sensors_per_round=1"],
            "training.sensors_per_round has no meaning",
        ),
    ],
)
def test_mistakes_are_named(changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load("descent", changes)


def test_what_trains_networks_takes_no_descent() -> None:
    with pytest.raises(TypeError, match=r"use fedquant\.descent\.make_descent"):
        make_plan(load("descent"))
    with pytest.raises(TypeError, match=r"use fedquant\.plan\.make_plan"):
        make_descent(load("wearables"))
    with pytest.raises(ConfigError, match="rates: descent descends and has no accuracy to compare"):
        jobs(Study(name="rates", scenario="descent", schemes={"plain": {}}), Path())
