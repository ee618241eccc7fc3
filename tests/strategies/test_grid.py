"""The in-process Grid leans on Flower's internals: this fails loudly when a new Flower moves them."""

from __future__ import annotations

import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fedquant.errors import DataError, FedquantError
from strategies.grid import LocalGrid


def echo_app() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 9:
            raise DataError("no data here")
        seen = context.state.config_records.get("seen", None)
        count = 1 if seen is None else int(str(seen["n"])) + 1
        from flwr.app import ConfigRecord

        context.state["seen"] = ConfigRecord({"n": count})
        arrays = ArrayRecord(
            {"w": Array("float32", (1,), "numpy.ndarray", message.content["arrays"]["w"].data)}
        )
        metrics = MetricRecord({"num-examples": 1, "count": count, "node": message.metadata.dst_node_id})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    return app


def test_a_stock_flower_strategy_runs_on_it() -> None:
    import numpy as np

    grid = LocalGrid(echo_app(), 4, {}, {})
    result = FedAvg(fraction_evaluate=0.0).start(
        grid, ArrayRecord({"w": Array(np.ones(1, np.float32))}), num_rounds=3
    )
    assert result.train_metrics_clientapp[3]["count"] == 3  # a context lives as long as the run
    assert result.arrays["w"].numpy().tolist() == [1.0]


def test_replies_come_in_order_and_name_their_node() -> None:
    grid = LocalGrid(echo_app(), 3, {}, {})
    content = RecordDict({"arrays": ArrayRecord({"w": Array("float32", (1,), "x", b"\0\0\0\0")})})
    nodes = list(grid.get_node_ids())
    asked = [Message(content, dst_node_id=n, message_type="train") for n in reversed(nodes)]
    replies = list(grid.send_and_receive(asked))
    assert [r.metadata.src_node_id for r in replies] == nodes[::-1]
    assert [r.content["metrics"]["node"] for r in replies] == nodes[::-1]


def test_a_failing_node_is_an_error_reply() -> None:
    grid = LocalGrid(echo_app(), 10, {}, {})
    node = list(grid.get_node_ids())[9]
    (reply,) = grid.send_and_receive([Message(RecordDict(), dst_node_id=node, message_type="train")])
    assert reply.has_error()
    assert reply.error.reason == "DataError: no data here"


def test_it_answers_at_once_only() -> None:
    grid = LocalGrid(echo_app(), 1, {}, {})
    with pytest.raises(FedquantError, match="send_and_receive"):
        grid.push_messages([])
    with pytest.raises(FedquantError, match="send_and_receive"):
        grid.pull_messages([])
