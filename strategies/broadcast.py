"""The downlink: what nodes are told of the model, and which of them know what."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedquant.checkpoint import State
from fedquant.codecs.floats import Float32
from fedquant.kernels import scan
from fedquant.keys import Purpose
from fedquant.plan import Plan
from fedquant.wire import Knobs

F32 = npt.NDArray[np.float32]


class Broadcast:
    """Codes the model once a round for all nodes.

    With `reference: difference` it codes what the nodes lack, so the server tracks what they hold: a node
    that missed broadcasts gets those too, or all that it should hold where that is shorter. Nodes add the
    share of a decoded difference that brings them nearest to the model, so a coarse codec, whose errors
    are larger than what it codes, takes them no further away.
    """

    def __init__(self, plan: Plan, initial: F32) -> None:
        self.plan, self.downlink = plan, plan.scenario.downlink
        self.sent = 0  # broadcasts so far
        self.payload, self.buffers = b"", b""  # of the last one
        self.reference = initial.copy()  # the model of a node that heard them all
        self.recent: list[tuple[int, float, bytes]] = []  # (round, share, payload) of the last ones
        self.held: dict[int, int | None] = {}  # gateway -> broadcasts it has heard; None: not known

    def send(self, round: int, parameters: F32, buffers: F32) -> int:
        """Codes parameters and buffers, float32[size] each; bytes of the broadcast."""
        plan, codec = self.plan, self.downlink.codec
        key, spec = plan.down(round, Purpose.MODEL), plan.model_spec
        if self.downlink.reference == "model":
            self.payload, _ = codec.encode(parameters, spec, key)
        else:
            lacking = parameters - self.reference
            self.payload, _ = codec.encode(lacking, spec, key)
            decoded = codec.decode(self.payload, spec, key)
            share = _share(decoded, lacking)
            self.reference += share * decoded
            self._remember(round, float(share))
        self.sent += 1
        if plan.buffer_spec.size:
            key = plan.down(round, Purpose.BUFFERS)
            self.buffers, _ = Float32().encode(buffers, plan.buffer_spec, key)
        return len(self.payload) + len(self.buffers)

    def to(self, gateway: int, round: int) -> tuple[Knobs, tuple[bytes, ...], int]:
        """(how to read it, payloads, bytes beyond the broadcast) for a node."""
        end = (self.buffers,) if self.buffers else ()
        if self.downlink.reference == "model":
            return {}, (self.payload, *end), 0
        held = self.held.get(gateway, 0)
        if held is None or self.sent - held > len(self.recent):
            key = self.plan.down(round, Purpose.MODEL).fold(part=1)
            whole, _ = Float32().encode(self.reference, self.plan.model_spec, key)
            return {"now": self.sent}, (whole, *end), len(whole)
        missed = self.recent[len(self.recent) - (self.sent - held) :]
        rounds = np.array([r for r, _, _ in missed], "<u4").tobytes()
        shares = np.array([s for _, s, _ in missed], "<f4").tobytes()
        knobs: Knobs = {"held": held, "now": self.sent, "rounds": rounds, "shares": shares}
        return knobs, (*(p for _, _, p in missed), *end), sum(len(p) for _, _, p in missed[:-1])

    def heard(self, gateway: int, answered: bool) -> None:
        """Notes whether a node that was sent the last broadcast answered."""
        self.held[gateway] = self.sent if answered else None

    def state(self) -> State:
        """What nodes hold, and what they may have to be told again."""
        return {"sent": self.sent, "reference": self.reference, "recent": self.recent, "held": self.held}

    def restore(self, state: State) -> None:
        """Takes over what `state` gave."""
        self.sent, self.reference = state["sent"], state["reference"]
        self.recent, self.held = state["recent"], state["held"]

    def _remember(self, round: int, share: float) -> None:
        """Keeps the last broadcasts, as many as take no more bytes than the whole model."""
        self.recent.append((round, share, self.payload))
        size = sum(len(p) for _, _, p in self.recent)
        while len(self.recent) > 1 and size > 4 * self.plan.model_spec.size:
            size -= len(self.recent.pop(0)[2])


def _share(decoded: F32, wanted: F32) -> np.float32:
    """c ≥ 0 of the least ‖c·decoded − wanted‖; about 1/(1+γ) for an unbiased codec of variance γ."""
    square = scan.sum_squares(decoded)
    product = (square + scan.sum_squares(wanted) - scan.sum_squares(wanted - decoded)) / 2
    return np.float32(max(product / square, 0.0) if square > 0 else 1.0)
