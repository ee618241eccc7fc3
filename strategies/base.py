"""What every strategy here does around its own step: registration, broadcast, replies, ledger."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Final

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedquant import carrier
from fedquant.errors import CodecError, EngineError
from fedquant.kernels import rng
from fedquant.keys import Purpose
from fedquant.ledger import Ledger, Status
from fedquant.message import Hello, Request, encode_knobs
from fedquant.plan import make_plan
from fedquant.scenario import Scenario
from fedquant.tasks.trainer import Trainer
from fedquant.wire import Knobs
from strategies.broadcast import Broadcast
from strategies.replies import Inbox

log = logging.getLogger("fedquant")
_PATIENCE: Final = 3  # rounds in a row in which every node fails
_CONNECT: Final = 300.0  # seconds for all nodes to appear


class UplinkStrategy(Strategy):
    """Base of fedquant's strategies: one run of one scenario, written to one ledger."""

    def __init__(self, scenario: Scenario, ledger: Ledger) -> None:
        training = scenario.training
        self.scenario, self.ledger = scenario, ledger
        self.plan = make_plan(scenario)
        schedule = training.schedule
        self.trainer = Trainer(
            self.plan.task,
            self.plan.initial_model(),
            (training.optimizer.name, training.optimizer.arguments),
            None if schedule is None else (schedule.name, schedule.arguments),
            training.device,
        )
        self.broadcast = Broadcast(self.plan, self.trainer.parameters())
        self.hosts: dict[int, int] = {}  # sensor -> Flower node
        self.judged: dict[int, tuple[int, bool]] = {}  # sensor -> its last judged payload
        self.totals = {"uplink": 0, "downlink": 0}
        self.failed_rounds = 0

    # ---- what a strategy adds

    @abstractmethod
    def round_knobs(self, round: int) -> dict[str, Knobs]:
        """What this round's nodes are told, by receiver."""

    @abstractmethod
    def needs_model(self, knobs: dict[str, Knobs]) -> bool:
        """Whether the nodes need the model to follow these knobs."""

    @abstractmethod
    def learn(self, inbox: Inbox, knobs: dict[str, Knobs]) -> tuple[dict[str, Any], dict[int, int]]:
        """Decodes, refuses and steps: (fields for the round's line, samples a sensor)."""

    # ---- Flower's interface

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """One message a node that hosts a sampled sensor."""
        self.started = time.perf_counter()
        if not self.hosts:
            self.register(grid)
        self.knobs = self.round_knobs(server_round)
        self.downlink, self.catch_up = len(encode_knobs(self.knobs)), 0
        self.told = self.needs_model(self.knobs)
        if self.told:
            parameters, buffers = self.trainer.parameters(), self.trainer.buffers()
            self.downlink += self.broadcast.send(server_round, parameters, buffers)
        nodes: dict[int, list[int]] = {}
        for sensor in self.sample(server_round):
            nodes.setdefault(self.hosts[sensor], []).append(sensor)
        self.inbox = Inbox(
            self.scenario.run_id,
            server_round,
            len(self.plan.slots),
            {node: tuple(sensors) for node, sensors in nodes.items()},
        )
        return [self._request(node, tuple(s), server_round) for node, s in nodes.items()]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Decodes, steps, evaluates and writes the ledger."""
        inbox, arrived = self.inbox, time.perf_counter()
        inbox.read(replies)
        if self.told:
            for node in inbox.expected:
                self.broadcast.heard(node, node in inbox.answered)
        if inbox.payloads:
            self.failed_rounds = 0
        else:
            self._nobody()
        fields, samples = self.learn(inbox, self.knobs)
        self.trainer.end_round()
        for sensor in inbox.speaking():
            self.judged[sensor] = (server_round, sensor not in inbox.refused)
        row = self._row(server_round, inbox, fields, samples)
        metrics = self._evaluate(server_round)
        stepped = time.perf_counter()
        self._record(row | metrics, inbox, samples)
        self.ledger.timing(
            {
                "round": server_round,
                "nodes_s": round(arrived - self.started, 6),
                "server_s": round(stepped - arrived, 6),
            }
        )
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
        wanted, deadline = self.scenario.gateways, time.monotonic() + _CONNECT
        while len(nodes := list(grid.get_node_ids())) < wanted:
            if time.monotonic() > deadline:
                raise EngineError(f"only {len(nodes)} of {wanted} nodes connected within {_CONNECT:g} s")
            time.sleep(0.2)
        queries = [Message(RecordDict(), dst_node_id=node, message_type="query") for node in nodes]
        for reply in grid.send_and_receive(queries):
            node = reply.metadata.src_node_id
            if reply.has_error():
                raise EngineError(f"node {node} cannot take part: {reply.error.reason}")
            hello = Hello.from_bytes(carrier.unwrap(reply.content))
            if hello.run != self.scenario.run_id:
                raise EngineError(f"node {node} is in run {hello.run:016x}, not {self.scenario.run_id:016x}")
            for sensor, samples in zip(hello.sensors, hello.samples, strict=True):
                if sensor in self.hosts or sensor >= self.scenario.sensors:
                    raise EngineError(f"node {node} claims sensor {sensor}, which is taken or does not exist")
                if samples != self.plan.federation.sizes[sensor]:
                    raise EngineError(
                        f"sensor {sensor} has {samples} samples, the server counts "
                        f"{self.plan.federation.sizes[sensor]}; the data sets differ"
                    )
                self.hosts[sensor] = node
        if missing := sorted(set(range(self.scenario.sensors)) - set(self.hosts)):
            raise EngineError(f"no node hosts sensors {missing}")

    def sample(self, server_round: int) -> list[int]:
        """The sensors of a round, ascending."""
        training, n = self.scenario.training, self.scenario.sensors
        k = training.sensors_per_round or max(1, round(training.fraction * n))
        if k == n:
            return list(range(n))
        key = self.scenario.key.fold(round=server_round, purpose=Purpose.SENSORS)
        return sorted(rng.choice(key, n, k).tolist())

    def arrays(self) -> ArrayRecord:
        """The model as Flower carries it."""
        return ArrayRecord({"parameters": Array(self.trainer.parameters())})

    def _request(self, node: int, sensors: tuple[int, ...], server_round: int) -> Message:
        knobs = self.knobs
        payloads: tuple[bytes, ...] = ()
        if self.told:
            reading, payloads, extra = self.broadcast.to(node, server_round)
            self.catch_up += extra
            knobs = {**knobs, "downlink": reading} if reading else knobs
        judged = [self.judged.get(s, (0, False)) for s in sensors]
        request = Request(
            self.scenario.run_id,
            server_round,
            sensors,
            tuple(r for r, _ in judged),
            tuple(d for _, d in judged),
            knobs,
            payloads,
        )
        return Message(carrier.wrap(request.to_bytes()), dst_node_id=node, message_type="train")

    def _nobody(self) -> None:
        self.failed_rounds += 1
        if self.failed_rounds >= _PATIENCE:
            raise EngineError(
                f"no node answered in {_PATIENCE} rounds in a row; the last reasons:\n"
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
            "epoch": self.plan.epoch(server_round),
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
            "learning_rate": self.trainer.learning_rate,
            **fields,
        }

    def _evaluate(self, server_round: int) -> dict[str, float]:
        training = self.scenario.training
        if server_round % training.evaluate_every and server_round != training.rounds:
            return {}
        result = self.trainer.evaluate(self.plan.federation.test)
        return {f"test_{name}": value for name, value in result.items()}

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
        if inbox.round == self.scenario.training.rounds:
            self.ledger.flush()
            self.trainer.save(str(self.ledger.model_path))


def decode_error(inbox: Inbox, sensors: list[int], refused: dict[int, CodecError]) -> None:
    """Notes the refusals of `add_decoded`, which counts payloads by position."""
    for position, why in refused.items():
        inbox.refuse(sensors[position], why)
