"""The first words of a run: which node hosts which sensors."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from flwr.app import Message
from flwr.serverapp import Grid

from fedquant import carrier
from fedquant.errors import EngineError
from fedquant.message import Hello, Start
from fedquant.scenario import Scenario

_CONNECT: Final = 300.0  # seconds for all nodes to appear


def register(
    grid: Grid, scenario: Scenario, sizes: Sequence[int], checkpoint: int
) -> tuple[dict[int, int], dict[int, int]]:
    """(the Flower node of each sensor, the attempt that each node counts), as the run goes on from a round.

    sizes: how many samples each sensor has. Raises EngineError where a node is missing or a sensor claimed
    twice.
    """
    start = Start(scenario.run_id, checkpoint).to_bytes()
    hosts: dict[int, int] = {}
    attempts: dict[int, int] = {}
    queries = [
        Message(carrier.wrap(start), dst_node_id=node, message_type="query")
        for node in _connected(grid, scenario.gateways)
    ]
    for reply in grid.send_and_receive(queries, timeout=_CONNECT):
        node = reply.metadata.src_node_id
        if reply.has_error():
            raise EngineError(f"node {node} cannot take part: {reply.error.reason}")
        hello = Hello.from_bytes(carrier.unwrap(reply.content))
        if hello.run != scenario.run_id:
            raise EngineError(f"node {node} is in run {hello.run:016x}, not {scenario.run_id:016x}")
        attempts[node] = hello.attempt
        for sensor, samples in zip(hello.sensors, hello.samples, strict=True):
            if sensor in hosts or sensor >= scenario.sensors:
                raise EngineError(f"node {node} claims sensor {sensor}, which is taken or does not exist")
            if samples != sizes[sensor]:
                raise EngineError(
                    f"sensor {sensor} has {samples} samples, the server counts {sizes[sensor]}; the data "
                    "sets differ"
                )
            hosts[sensor] = node
    if missing := sorted(set(range(scenario.sensors)) - set(hosts)):
        shown = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        raise EngineError(
            f"{len(missing)} of {scenario.sensors} sensors are on no node that answered within "
            f"{_CONNECT:g} s: {shown}"
        )
    return hosts, attempts


def _connected(grid: Grid, wanted: int) -> list[int]:
    deadline = time.monotonic() + _CONNECT
    while len(nodes := list(grid.get_node_ids())) < wanted:
        if time.monotonic() > deadline:
            raise EngineError(
                f"only {len(nodes)} of {wanted} nodes connected within {_CONNECT:g} s; start {wanted} "
                f"SuperNodes (flwr run: --federation-config num-supernodes={wanted})"
            )
        time.sleep(0.2)
    return nodes
