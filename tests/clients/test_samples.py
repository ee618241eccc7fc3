from __future__ import annotations

import numpy as np

from clients.samples import PLACE, REFINED, SCALE, SENT, noted, refined, samples_memory, taken_back


def test_places_count_what_arrived() -> None:
    memory = noted(samples_memory(6), np.array([4, 1]), 3, np.float32([2, 2]))
    lost = noted(memory, np.array([0]), 5, np.float32([3]))
    assert lost[PLACE][[4, 1, 0]].tolist() == [0, 1, 2]
    again = noted(taken_back(lost, 5), np.array([5, 0]), 7, np.float32([1, 1]))
    assert again[SENT].tolist() == [7, 3, 0, 0, 3, 7]
    assert again[PLACE][[4, 1, 5, 0]].tolist() == [0, 1, 2, 3]
    assert again[SCALE][[4, 5]].tolist() == [2, 1]
    assert memory[SENT].tolist() == [0, 3, 0, 0, 3, 0]  # a value


def test_a_lost_refinement_may_be_sent_again() -> None:
    memory = noted(samples_memory(3), np.array([0, 1, 2]), 1, None)
    finer = refined(memory, np.array([1]), 2)
    assert finer[REFINED].tolist() == [0, 2, 0]
    assert taken_back(finer, 2)[REFINED].tolist() == [0, 0, 0]
    assert taken_back(finer, 2)[SENT].tolist() == [1, 1, 1]
