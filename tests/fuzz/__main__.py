"""Fuzzes everything that reads bytes: `python -m tests.fuzz --cases 10000000 --seed 7`."""

from __future__ import annotations

import warnings
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fedquant.errors import suggest
from tests.fuzz.formats import subjects
from tests.fuzz.harness import Failure, Tally, cases, judge, peak

MEASURED = 100
"""Cases of each subject whose memory is measured."""


def main(
    total: Annotated[int, typer.Option("--cases", min=1, help="cases in all")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="what cases are drawn from")] = 7,
    only: Annotated[str | None, typer.Option(help="one subject, as the table names it")] = None,
    start: Annotated[int, typer.Option(min=0, help="number of the first case of each subject")] = 0,
) -> None:
    """Prints what became of each subject's cases; exits with 1 where one came out wrong.

    A subject ends at its first such case. memory: the largest share of its allowance that a case took.
    """
    warnings.simplefilter("error")
    console = Console(soft_wrap=True)
    names = [name for name in subjects() if only in (None, name)]
    if not names:
        raise SystemExit(f"unknown subject {only!r}: {suggest(str(only), subjects())}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    table = Table(
        "subject", "cases", "refused", "accepted", "of these changed", "memory", title=f"seed {seed}"
    )
    failures = []
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("fuzz", total=total)
        for i, name in enumerate(names):
            n, tally, memory = total * (i + 1) // len(names) - total * i // len(names), Tally(), "-"
            progress.update(bar, description=name)
            try:
                for case in cases(name, seed, start, n):
                    tally.add(case, judge(name, seed, case))
                    progress.advance(bar)
                memory = f"{peak(name, seed, start, min(n, MEASURED)):.0%}"
            except Failure as failed:
                failures.append(str(failed))
            row = (tally.cases, tally.refused, tally.accepted, tally.reached)
            table.add_row(name, *map(str, row), memory)
    console.print(table)
    for failure in failures:
        console.print(failure, markup=False, highlight=False)
    console.print(f"{len(failures)} of {len(names)} subjects failed")
    raise SystemExit(len(failures) > 0)


if __name__ == "__main__":
    typer.run(main)
