"""The command line."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fedquant.errors import ConfigError, FedquantError

# For the help, which so imports nothing that takes long or depends on settings.
STUDIES: Final = (
    "studies/codecs-mnist",
    "studies/codecs-wearables",
    "studies/daqusgd-cifar10",
    "studies/dqsgd-cifar10",
    "studies/qcs-cifar10",
    "studies/wearables",
)
EXPERIMENTS: Final = (
    "daqusgd-fig4",
    "dqgd-fig3",
    "dqsgd-table1",
    "qcs-fig2",
    "qcs-fig3",
    "qcs-fig4",
    "qcs-fig5",
    "qcs-fig6",
    "qcs-fig8",
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a bug's traceback is to be read, without every variable in it
    help="Cheap uplinks for federated learning.",
)


class Engine(StrEnum):
    """Where a scenario runs."""

    local = "local"
    flower = "flower"


@app.callback()
def _root() -> None:
    """Cheap uplinks for federated learning."""


@app.command()
def run(
    scenario: Annotated[
        str,
        typer.Argument(help="A scenario file, or the name of one that ships; an unknown name lists them."),
    ],
    set_: Annotated[list[str] | None, typer.Option("--set", help="key.path=value, repeatable.")] = None,
    engine: Annotated[Engine, typer.Option(help="local: in this process; flower: on Ray.")] = Engine.local,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/<name> by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
) -> None:
    """Run a scenario: live progress, then a table and a run folder."""
    from fedquant.engines.run import run as start
    from fedquant.engines.run import run_folder
    from fedquant.folder import finished
    from fedquant.report.run import said, table
    from fedquant.scenario import load

    console = Console()
    checked = load(scenario, set_ or ())
    if resume and finished(run_folder(checked, out), checked):
        console.print("finished before, nothing is left to run")
        result = start(checked, out=out, resume=True)
    elif engine is Engine.flower:
        result = start(checked, engine="flower", out=out, resume=resume, on_line=print)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task(checked.name, total=checked.training.rounds, said="")

            def on_round(row: dict[str, Any]) -> None:
                progress.update(bar, completed=row["round"])
                if text := said(row):
                    progress.update(bar, said=text)

            result = start(checked, out=out, resume=resume, on_round=on_round)
            progress.update(bar, total=result.rounds[-1]["round"])  # a run may end early
    console.print(table(result, checked.name))
    console.print(f"run folder: {result.folder}")


@app.command()
def compare(
    study: Annotated[
        str, typer.Argument(help=f"A study file, or the name of one that ships: {', '.join(STUDIES)}.")
    ],
    set_: Annotated[list[str] | None, typer.Option("--set", help="key.path=value for every run.")] = None,
    out: Annotated[Path, typer.Option(help="Where runs go; finished ones are kept.")] = Path("runs/studies"),
    report: Annotated[Path, typer.Option(help="Where table, CSV and picture go.")] = Path("docs/results"),
    workers: Annotated[int, typer.Option(help="Runs at a time.", min=1)] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="Only the first of each varied value.")] = False,
) -> None:
    """Run every scheme of a study over its folds and seeds; write table, CSV and picture."""
    from fedquant.folder import writable
    from fedquant.report import plot, table
    from fedquant.report.pyplot import pyplot
    from fedquant.report.study import distortions, execute, load_study
    from fedquant.scenario.load import find, parse_changes

    console = Console()
    find(study, "study")  # so that studies are suggested
    loaded = load_study(study, parse_changes(set_ or ()))
    if quick:
        loaded = loaded.first()
    pyplot()  # where it is missing, say so before hours of work
    writable(report, "--report")
    writable(out / loaded.name, "--out")
    with Progress(console=console) as progress:
        bar = progress.add_task(loaded.name)
        results = execute(
            loaded,
            out / loaded.name,
            workers,
            lambda done, of: progress.update(bar, completed=done, total=of),
        )
    target, lines = table.summarise(results)
    if loaded.report == "codecs":
        text = table.codec_markdown(lines, distortions(loaded))
    else:
        text = table.markdown(target, lines)
    (report / f"{loaded.name}.md").write_text(text, encoding="utf-8")
    table.write_csv(report / f"{loaded.name}.csv", results)
    plot.accuracy_against_bytes(report / f"{loaded.name}.svg", results, loaded.name)
    plot.accuracy_against_bytes(report / f"{loaded.name}.png", results, loaded.name)
    console.print(text, markup=False, soft_wrap=True)


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(help=f"An experiment of the papers: {', '.join(EXPERIMENTS)}.")],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions, the same claims.")] = False,
    matrix: Annotated[Path | None, typer.Option(help="A Matrix Market file (dqgd-fig3).")] = None,
    out: Annotated[Path, typer.Option(help="Where report, CSV and pictures go.")] = Path("docs/reproduce"),
) -> None:
    """Run an experiment of the papers: figures, numbers, and whether each claim holds."""
    from fedquant.reproduce import reproduce as start

    console = Console()
    with console.status(name) as status:
        written = start(name, out, quick, matrix, status.update)
    console.print(written.read_text(encoding="utf-8"), markup=False, soft_wrap=True)
    console.print(f"report: {written}")


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Smaller vectors, under a minute.")] = False,
    out: Annotated[Path, typer.Option(help="Where JSON, table and picture go.")] = Path("docs/benchmarks"),
) -> None:
    """Measure kernels, codecs and peers against memcpy and each other; say which targets hold."""
    from fedquant.bench import report, targets
    from fedquant.bench.run import run as start

    console = Console()
    with console.status("bench") as status:
        results = start(out, quick, status.update)
    console.print(report.verdicts(targets.judge(results)), markup=False, soft_wrap=True)
    console.print(f"report: {out / 'results.md'}")


@app.command()
def warm() -> None:
    """Compile all kernels now, so that no run waits for it (after installing; on a Raspberry Pi)."""
    from fedquant import kernels
    from fedquant.warm import warm as compile_all

    if not kernels.COMPILED:
        raise ConfigError("warm: numpy kernels are in use; install numba, or unset FEDQUANT_KERNELS")
    console = Console()
    with console.status("compiling") as status:
        for name in compile_all():
            status.update(f"compiled what {name} needs")
    console.print("all kernels are compiled")


def main() -> None:
    """The entry point: a mistake ends in one message and status 1, never a traceback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except FedquantError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(1)
