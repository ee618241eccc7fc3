"""The Flower ServerApp: builds the strategy that a scenario needs, and runs it."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedquant.folder import alone, finished, last_checkpoint
from fedquant.ledger import Ledger
from fedquant.scenario import Scenario, load
from fedquant.scenario.descent import DescentUplink
from fedquant.scenario.schema import DataUplink
from strategies.rounds import RoundStrategy

app = ServerApp()
log = logging.getLogger("fedquant")


def make_strategy(scenario: Scenario, ledger: Ledger) -> RoundStrategy:
    """The strategy that the scenario's uplink needs. A descent loads no torch."""
    if isinstance(scenario.uplink, DescentUplink):
        from strategies.descent import DescentStrategy

        return DescentStrategy(scenario, ledger)
    from strategies.data import DataStrategy
    from strategies.vector import VectorStrategy

    kind = DataStrategy if isinstance(scenario.uplink, DataUplink) else VectorStrategy
    return kind(scenario, ledger)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One run, written to the folder that the engine (or FEDQUANT_OUT) names.

    Where the engine says so (or FEDQUANT_RESUME=1) it goes on from the checkpoint there.
    """
    if not log.handlers:  # under Flower, whose log is what the user sees
        log.addHandler(_RoundLines(sys.stderr))
        log.setLevel(logging.INFO)
        log.propagate = False
    scenario = load(str(context.run_config["scenario"]))
    if not isinstance(scenario.uplink, DescentUplink):
        from fedquant.tasks import learn
        from fedquant.tasks.trainer import try_out

        training = scenario.training
        learn.use_threads(training.threads)
        schedule = training.schedule.choice if training.schedule else None
        # A mistake is told before an older run in the folder is replaced.
        try_out(training.optimizer.choice, schedule, training.device)
    out = context.node_config.get("out") or os.environ.get("FEDQUANT_OUT")
    folder = Path(str(out)) if out else Path.cwd() / "runs" / f"{scenario.name}-{scenario.run_id:016x}"
    resume = context.node_config.get("resume", os.environ.get("FEDQUANT_RESUME") == "1")
    log.info("run folder: %s", folder)
    if resume and finished(folder, scenario):
        log.info("the run is finished")
        return
    with alone(folder):
        since = last_checkpoint(folder, scenario) if resume else None
        strategy = make_strategy(scenario, Ledger(folder, scenario, since and since["ledger"]))
        if since is not None:
            strategy.restore(since["strategy"])
            log.info("goes on after round %d", strategy.checkpoint)
        strategy.start(grid, strategy.arrays(), num_rounds=scenario.training.rounds)


class _RoundLines(logging.StreamHandler):  # type: ignore[type-arg]
    """Prints rounds that were evaluated, and everything else."""

    def emit(self, record: logging.LogRecord) -> None:
        row = getattr(record, "row", None)
        if row is not None:
            record.msg, record.args = "round %d, uplink %d B", (row["round"], row["uplink_total"])
            if "test_accuracy" in row:
                record.msg += f", accuracy {row['test_accuracy']:.3f}"
            elif "test_loss" in row:
                record.msg += f", test loss {row['test_loss']:.4g}"
            if "relative_error" in row:
                record.msg += f", relative error {row['relative_error']:.2e}"
        super().emit(record)
