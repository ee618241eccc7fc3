"""The Flower ClientApp: hands messages to the node that this Flower node hosts."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.gateway import Gateway
from fedquant import carrier
from fedquant.errors import ConfigError
from fedquant.message import Request, Start
from fedquant.scenario import Scenario, load
from fedquant.scenario.descent import DescentUplink

app = ClientApp()


@lru_cache(maxsize=4)
def _scenario(text: str) -> Scenario:
    return load(text)


def _state_dir(context: Context, scenario: Scenario) -> Path:
    given = context.node_config.get("state-dir") or os.environ.get("FEDQUANT_STATE_DIR") or scenario.state_dir
    if given:
        return Path(str(given))
    home = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state"))
    return home / "fedquant" / scenario.name


def _node(context: Context) -> Gateway:
    """The node of a context. A descent loads no torch."""
    scenario = _scenario(str(context.run_config["scenario"]))
    gateway = context.node_config.get("partition-id")
    if not isinstance(gateway, int):
        raise ConfigError(
            f"node config: partition-id is {gateway!r}; start the node with --node-config 'partition-id=0'"
        )
    if isinstance(scenario.uplink, DescentUplink):
        from clients.descent import DescentNode

        return DescentNode(scenario, gateway, _state_dir(context, scenario))
    from clients.node import Node
    from fedquant.tasks import learn

    learn.use_threads(scenario.training.threads)
    return Node(scenario, gateway, _state_dir(context, scenario))


@app.query()
def query(message: Message, context: Context) -> Message:
    """Registration: which sensors are here."""
    start = Start.from_bytes(carrier.unwrap(message.content))
    return Message(carrier.wrap(_node(context).hello(start).to_bytes()), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round."""
    request = Request.from_bytes(carrier.unwrap(message.content))
    return Message(carrier.wrap(_node(context).train(request).to_bytes()), reply_to=message)
