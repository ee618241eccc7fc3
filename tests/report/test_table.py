"""The study's table, from rounds made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedquant.report import plot, table


def rounds(accuracies: list[float], each: int) -> list[dict[str, object]]:
    return [
        {
            "round": i + 1,
            "test_accuracy": a,
            "test_loss": 1.0,
            "uplink_total": each * (i + 1),
            "downlink_total": 10,
        }
        for i, a in enumerate(accuracies)
    ]


RUNS = {
    "a": [rounds([0.5, 0.7, 0.8], 1000), rounds([0.5, 0.9, 0.9], 3000)],
    "b": [rounds([0.6, 0.755, 0.7], 10)],
}


def test_the_target_is_what_every_scheme_reaches() -> None:
    assert table.common_target(RUNS) == 0.75


@pytest.mark.parametrize("accuracy", [0.89, 0.57, 0.29, 0.07])
def test_a_target_is_reached_whatever_is_rounded(accuracy: float) -> None:
    # The mean of a hundredth below and above, whose hundredfold may be rounded to beyond it.
    runs = {"a": [rounds([accuracy - 0.06], 1), rounds([accuracy + 0.06], 1)], "b": [rounds([0.95], 1)]}
    target, lines = table.summarise(runs)
    assert accuracy - 0.02 < target <= table.curve(runs["a"]).accuracy[0]
    assert [line.at_target for line in lines] == [1, 1]


def test_lines_are_means_over_runs() -> None:
    target, (a, b) = table.summarise(RUNS)
    assert (a.scheme, a.uplink, a.downlink, a.at_target) == ("a", 6000, 10, 4000)
    assert a.accuracy == pytest.approx(0.85)
    assert a.spread == pytest.approx(0.1 / 2**0.5)
    assert (b.spread, b.at_target) == (0, 20)
    text = table.markdown(target, [a, b])
    assert "| a | 85.0 ± 7.1 | 0.006 | 1e-05 | 0.004 |" in text
    assert "uplink to 75%, MB" in text


def test_csv_and_picture(tmp_path: Path) -> None:
    table.write_csv(tmp_path / "x.csv", RUNS)
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 1 + 9
    for name in ("x.svg", "y.svg"):
        plot.accuracy_against_bytes(tmp_path / name, RUNS, "title")
    assert (tmp_path / "x.svg").read_bytes() == (tmp_path / "y.svg").read_bytes()
