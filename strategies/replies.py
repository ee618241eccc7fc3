"""Flower replies to payloads by sensor: what is not acceptable is dropped, counted and reported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from flwr.app import Message

from fedquant import carrier
from fedquant.errors import CodecError
from fedquant.message import Reply


@dataclass
class Inbox:
    """A round's payloads by sensor, in order of sensor ids, and what went wrong."""

    run: int
    round: int
    slots: int
    expected: dict[int, tuple[int, ...]]  # Flower node -> the sensors asked
    payloads: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    uplink_bytes: dict[int, int] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    answered: set[int] = field(default_factory=set)  # Flower nodes that understood the request

    def read(self, replies: Iterable[Message]) -> None:
        """Takes the replies in; each sensor speaks once a round, and only for itself."""
        for message in replies:
            node = message.metadata.src_node_id
            if message.has_error():
                self.failures.append(f"node {node}: {message.error.reason}")
                continue
            try:
                reply = Reply.from_bytes(carrier.unwrap(message.content))
                if (reply.run, reply.round) != (self.run, self.round):
                    raise CodecError(f"reply of run {reply.run:016x}, round {reply.round}")
                if len(reply.sensors) > len(asked := self.expected.get(node, ())):
                    raise CodecError(f"speaks for {len(reply.sensors)} sensors, asked were {len(asked)}")
                if reply.payloads and len(reply.payloads[0]) != self.slots:
                    raise CodecError(f"reply with {len(reply.payloads[0])} slots, expected {self.slots}")
            except CodecError as error:
                self.failures.append(f"node {node}: {error}")
                continue
            self.answered.add(node)
            self._take(node, reply)
        self.payloads = dict(sorted(self.payloads.items()))

    def _take(self, node: int, reply: Reply) -> None:
        asked = set(self.expected.get(node, ()))
        for sensor, payloads in zip(reply.sensors, reply.payloads, strict=True):
            if sensor not in asked:
                self.failures.append(f"node {node}: speaks for sensor {sensor}, which was not asked of it")
                continue
            size = sum(map(len, payloads))
            self.uplink_bytes[sensor] = self.uplink_bytes.get(sensor, 0) + size
            if sensor in self.payloads:
                self.failures.append(f"node {node}: sensor {sensor} answered twice, the second is dropped")
                continue
            self.payloads[sensor] = payloads

    def speaking(self) -> list[int]:
        """The sensors that sent something, ascending."""
        return [s for s, payloads in self.payloads.items() if any(payloads)]

    def refuse(self, sensor: int, why: CodecError) -> None:
        """Notes that a sensor's payload is not accepted."""
        self.refused[sensor] = f"sensor {sensor}: {why}"
