"""Flower's Grid in this process: the same apps, no Ray. The only code that leans on Flower's internals."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from fedquant.errors import FedquantError

_CLIENT_ERROR = 0  # Flower's code of an unspecified failure
log = logging.getLogger("fedquant")


class LocalGrid(Grid):
    """Hands each message to the ClientApp at once, one after the other."""

    def __init__(
        self, app: ClientApp, nodes: int, run_config: dict[str, Any], node_config: dict[str, Any]
    ) -> None:
        # Messages built outside an app read who they are from here.
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        self._app = app
        self._ids = itertools.count(1)
        self._run: Any = None
        self._contexts = {
            i + 2: Context(
                run_id=1,
                node_id=i + 2,
                node_config={**node_config, "partition-id": i, "num-partitions": nodes},
                state=RecordDict(),
                run_config=run_config,
            )
            for i in range(nodes)
        }

    def set_run(self, run: Any) -> None:
        """Keeps what Flower tells of the run."""
        self._run = run

    @property
    def run(self) -> Any:
        """What Flower told of the run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message to a node."""
        return Message(
            content, dst_node_id=dst_node_id, message_type=message_type, group_id=group_id, ttl=ttl
        )

    def get_node_ids(self) -> Iterable[int]:
        """The nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not offered: this grid answers at once."""
        raise FedquantError("the local grid answers at once; use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Not offered: this grid answers at once."""
        raise FedquantError("the local grid answers at once; use send_and_receive")

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """The replies, in the order of the messages; a node's failure is an error reply, as in Flower."""
        return [self._deliver(message) for message in messages]

    def _deliver(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = f"local-{next(self._ids)}"
        try:
            reply = self._app(message, self._contexts[node])
        except FedquantError as error:
            reply = Message(Error(_CLIENT_ERROR, f"{type(error).__name__}: {error}"), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = node
        return reply
