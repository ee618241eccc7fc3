"""What a sensor remembers of its samples: which it sent, when, and how. Memories are values."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from clients.state import Arrays

SENT: Final = "sent"  # uint32[n]: the round, 0 for never
REFINED: Final = "refined"  # uint32[n]: likewise
PLACE: Final = "place"  # uint32[n]: which of the sensor's samples it is, as the server counts
SCALE: Final = "scale"  # float32[n]: of the grid it was sent on
LIPSCHITZ: Final = "lipschitz"  # float64[1]: the largest C_z seen

Chosen = npt.NDArray[np.int64]


def samples_memory(n: int) -> Arrays:
    """Before anything was sent of n samples."""
    counts = {name: np.zeros(n, np.uint32) for name in (SENT, REFINED, PLACE)}
    return {**counts, SCALE: np.zeros(n, np.float32), LIPSCHITZ: np.zeros(1)}


def noted(memory: Arrays, chosen: Chosen, round: int, scales: npt.NDArray[np.float32] | None) -> Arrays:
    """After new samples were sent in this order."""
    sent, place, scale = (memory[name].copy() for name in (SENT, PLACE, SCALE))
    place[chosen] = np.count_nonzero(sent) + np.arange(len(chosen))
    sent[chosen] = round
    if scales is not None:
        scale[chosen] = scales
    return {**memory, SENT: sent, PLACE: place, SCALE: scale}


def refined(memory: Arrays, chosen: Chosen, round: int) -> Arrays:
    """After samples were refined."""
    rounds = memory[REFINED].copy()
    rounds[chosen] = round
    return {**memory, REFINED: rounds}


def taken_back(memory: Arrays, round: int) -> Arrays:
    """After it turned out that what was sent in a round, the last, did not arrive."""
    undone = {name: np.where(memory[name] == round, np.uint32(0), memory[name]) for name in (SENT, REFINED)}
    return {**memory, **undone}
