"""What every strategy here does around its own step: requests, replies, ledger, checkpoints."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedquant import carrier, checkpoint
from fedquant.checkpoint import State
from fedquant.errors import EngineError
from fedquant.ledger import Ledger, Status
from fedquant.message import Request, encode_knobs
from fedquant.scenario import Scenario
from fedquant.wire import Knobs
from strategies.registration import register
from strategies.replies import Inbox

log = logging.getLogger("fedquant")
PATIENCE: Final = 3  # rounds in a row in which nothing can be learnt


class RoundStrategy(Strategy):
    """Base of fedquant's strategies: one run of one scenario, written to one ledger.

    sizes: how many samples each sensor has, which nodes must confirm. slots: payloads a sensor and round.
    A strategy that is `done` ends the run before its last round.
    """

    def __init__(self, scenario: Scenario, ledger: Ledger, sizes: Sequence[int], slots: int) -> None:
        self.scenario, self.ledger, self.sizes, self.slots = scenario, ledger, sizes, slots
        self.hosts: dict[int, int] = {}  # sensor -> Flower node
        self.attempts: dict[int, int] = {}  # Flower node -> which attempt at the run it counts
        self.judged: dict[int, tuple[int, bool]] = {}  # sensor -> its last judged payload
        self.totals = {"uplink": 0, "downlink": 0}
        self.failed_rounds = 0
        self.checkpoint = 0  # the round after which the last one was made
        self.done = False

    # ---- what a strategy adds

    @abstractmethod
    def round_knobs(self, round: int) -> dict[str, Knobs]:
        """What this round's nodes are told, by receiver."""

    @abstractmethod
    def speak(self, round: int) -> int:
        """Codes what all nodes are sent besides the knobs; its bytes."""

    @abstractmethod
    def words(self, gateway: int, round: int) -> tuple[Knobs, tuple[bytes, ...], int]:
        """(how to read it, payloads, bytes beyond what all are sent) for a node."""

    @abstractmethod
    def learn(self, inbox: Inbox, knobs: dict[str, Knobs]) -> tuple[dict[str, Any], dict[int, int]]:
        """Decodes, refuses and steps: (fields for the round's line, samples a sensor)."""

    @abstractmethod
    def arrays(self) -> ArrayRecord:
        """The model as Flower carries it."""

    @abstractmethod
    def save(self, path: str) -> None:
        """Writes the model as safetensors."""

    @abstractmethod
    def state(self) -> State:
        """All that a round changes, for a checkpoint: `super().state()`, and what a strategy adds to it."""
        return {
            "round": self.checkpoint,
            "judged": self.judged,
            "totals": self.totals,
            "failed_rounds": self.failed_rounds,
        }

    @abstractmethod
    def restore(self, state: State) -> None:
        """Takes over what `state` gave."""
        self.checkpoint, self.judged = state["round"], state["judged"]
        self.totals, self.failed_rounds = state["totals"], state["failed_rounds"]

    def heard(self, inbox: Inbox) -> None:
        """Notes which nodes answered."""

    def end_round(self, round: int) -> dict[str, Any]:
        """What there is to do after a step; more fields for the round's line."""
        return {}

    def evaluate(self, round: int) -> dict[str, float]:
        """Measures of the model, where this round is one to evaluate."""
        return {}

    # ---- Flower's interface

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        *args: Any,
        **kwargs: Any,
    ) -> Result:
        """Flower's loop over rounds, from the last checkpoint on, and left early by what is done."""
        self.summary()
        result, config = Result(arrays=initial_arrays), ConfigRecord()
        for server_round in range(self.checkpoint + 1, num_rounds + 1):
            # Requests are held by nobody but the grid: with a thousand nodes they are a thousand models.
            replies = grid.send_and_receive(
                self.configure_train(server_round, result.arrays, config, grid), timeout=timeout
            )
            arrays, metrics = self.aggregate_train(server_round, replies)
            result.arrays, result.train_metrics_clientapp[server_round] = arrays, metrics
            if self.done:
                break
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message a node that hosts a sampled sensor."""
        self.started = time.perf_counter()
        if not self.hosts:
            self.register(grid)
        self.knobs = self.round_knobs(server_round)
        self.downlink, self.catch_up = len(encode_knobs(self.knobs)) + self.speak(server_round), 0
        nodes: dict[int, list[int]] = {}
        for sensor in self.sample(server_round):
            nodes.setdefault(self.hosts[sensor], []).append(sensor)
        self.inbox = Inbox(
            self.scenario.run_id,
            server_round,
            self.slots,
            {node: tuple(sensors) for node, sensors in nodes.items()},
        )
        return [self._request(node, tuple(s), server_round) for node, s in nodes.items()]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Decodes, steps, evaluates and writes the ledger."""
        inbox, arrived = self.inbox, time.perf_counter()
        inbox.read(replies)
        self.heard(inbox)
        if inbox.payloads:
            self.failed_rounds = 0
        else:
            self._nobody()
        fields, samples = self.learn(inbox, self.knobs)
        fields = {**self.end_round(server_round), **fields}
        for sensor in inbox.speaking():
            self.judged[sensor] = (server_round, sensor not in inbox.refused)
        row = self._row(server_round, inbox, fields, samples)
        metrics = self.evaluate(server_round)
        stepped = time.perf_counter()
        self.ledger.timing(
            {
                "round": server_round,
                "nodes_s": round(arrived - self.started, 6),
                "server_s": round(stepped - arrived, 6),
            }
        )
        self._record(row | metrics, inbox, samples)
        self._save(server_round)
        return self.arrays(), MetricRecord({"uplink_bytes": row["uplink_bytes"], **metrics})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """None: the server evaluates."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """None: the server evaluates."""
        return None

    def summary(self) -> None:
        """Logs what is about to run."""
        uplink = self.scenario.uplink
        log.info(
            "%s: %d sensors, %s uplink by %s",
            self.scenario.name,
            self.scenario.sensors,
            uplink.kind,
            uplink.codec,
        )

    # ---- the parts

    def register(self, grid: Grid) -> None:
        """Asks every node for its sensors. Raises EngineError where one is missing or claimed twice."""
        self.hosts, self.attempts = register(grid, self.scenario, self.sizes, self.checkpoint)

    def gateway(self, sensors: Sequence[int]) -> int:
        """Which node of the scenario hosts these sensors, whatever Flower calls it."""
        return sensors[0] // self.scenario.topology.sensors_per_gateway

    def sample(self, server_round: int) -> list[int]:
        """The sensors of a round, ascending."""
        return self.scenario.participation.of(self.scenario.key, server_round)

    def _request(self, node: int, sensors: tuple[int, ...], server_round: int) -> Message:
        reading, payloads, extra = self.words(self.gateway(sensors), server_round)
        self.catch_up += extra
        judged = [self.judged.get(s, (0, False)) for s in sensors]
        request = Request(
            self.scenario.run_id,
            server_round,
            sensors,
            tuple(r for r, _ in judged),
            tuple(d for _, d in judged),
            {**self.knobs, "downlink": reading} if reading else self.knobs,
            payloads,
            self.attempts[node],
            self.checkpoint,
        )
        return Message(carrier.wrap(request.to_bytes()), dst_node_id=node, message_type="train")

    def _nobody(self) -> None:
        self.failed_rounds += 1
        if self.failed_rounds >= PATIENCE:
            raise EngineError(
                f"no node answered in {PATIENCE} rounds in a row; the last reasons:\n"
                + "\n".join(self.inbox.failures[:5])
            )

    def _row(
        self, server_round: int, inbox: Inbox, fields: dict[str, Any], samples: dict[int, int]
    ) -> dict[str, Any]:
        for text in [*inbox.failures, *inbox.refused.values()]:
            log.warning("round %d: %s", server_round, text)
        uplink = sum(inbox.uplink_bytes.values())
        self.totals["uplink"] += uplink
        self.totals["downlink"] += self.downlink + self.catch_up
        return {
            "round": server_round,
            "asked": sum(map(len, inbox.expected.values())),
            "answered": len(inbox.payloads),
            "refused": len(inbox.refused),
            "failures": len(inbox.failures),
            "samples": sum(samples.values()),
            "uplink_bytes": uplink,
            "downlink_bytes": self.downlink,
            "catch_up_bytes": self.catch_up,
            "uplink_total": self.totals["uplink"],
            "downlink_total": self.totals["downlink"],
            **fields,
        }

    def _record(self, row: dict[str, Any], inbox: Inbox, samples: dict[int, int]) -> None:
        for sensor in sorted(s for sensors in inbox.expected.values() for s in sensors):
            status = Status.MISSING
            if sensor in inbox.payloads:
                status = Status.ACCEPTED if any(inbox.payloads[sensor]) else Status.SILENT
            if sensor in inbox.refused:
                status = Status.REFUSED
            self.ledger.sensor(
                inbox.round, sensor, inbox.uplink_bytes.get(sensor, 0), samples.get(sensor, 0), status
            )
        self.ledger.round(row)
        log.info("round %d", inbox.round, extra={"row": row})

    def _save(self, server_round: int) -> None:
        """The final model, or a checkpoint where one is due."""
        training = self.scenario.training
        if self.done or server_round == training.rounds:
            self.ledger.finish(self.save)
        elif training.checkpoint_every and server_round % training.checkpoint_every == 0:
            self.checkpoint = server_round
            state = {"ledger": self.ledger.state(), "strategy": self.state()}
            checkpoint.write(self.ledger.folder, self.scenario.run_id, state)
