"""A run whose nodes lie in round 2."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict

import clients.app
import fedquant.engines.run
import strategies.app
from fedquant import carrier
from fedquant.message import Reply
from fedquant.scenario import Scenario
from strategies.grid import LocalGrid

Tamper = Callable[[Reply], Iterable[Reply]]


class TamperingGrid(LocalGrid):
    """Changes what nodes say in round 2."""

    tamper: Tamper

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        out = []
        for message in messages:
            reply = self._deliver(message)
            if message.metadata.message_type != "train" or reply.has_error():
                out.append(reply)
                continue
            spoken = Reply.from_bytes(carrier.unwrap(reply.content))
            changed = [spoken] if spoken.round != 2 or 0 not in spoken.sensors else self.tamper(spoken)
            for one in changed:
                copy = Message(carrier.wrap(one.to_bytes()), reply_to=message)
                copy.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
                out.append(copy)
        return out


def tampered_run(scenario: Scenario, tamper: Tamper, folder: Path) -> list[dict[str, Any]]:
    """The rounds of a run in which sensor 0's node says something else in round 2."""
    config = {"scenario": scenario.to_json()}
    grid = TamperingGrid(clients.app.app, scenario.gateways, config, {"state-dir": str(folder / "state")})
    grid.tamper = tamper
    context = Context(1, 1, {"out": str(folder)}, RecordDict(), config)  # type: ignore[arg-type]
    strategies.app.app(grid, context)
    return fedquant.engines.run.read(folder).rounds
