from __future__ import annotations

from pathlib import Path

from fedquant.ledger import Ledger
from fedquant.scenario import load


def test_a_new_run_replaces_its_own_files_alone(tmp_path: Path) -> None:
    own = [
        "rounds.jsonl",
        "timings.jsonl",
        "model.safetensors",
        "checkpoint.safetensors",
        "sensors-00003.npz",
    ]
    others = ["bert.safetensors", "dataset.jsonl", "film.part", "sensors-notes.npz", "sensors-1.npz"]
    for name in [*own, *others, "model.safetensors.part", "checkpoint.safetensors"]:
        (tmp_path / name).write_bytes(b"before")
    Ledger(tmp_path, load("wearables"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "scenario.yaml"])
