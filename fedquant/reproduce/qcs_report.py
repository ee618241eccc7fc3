"""How the experiments of the QCS paper begin their reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

PAPER: Final = (
    "Abdi & Fekri, “Quantized Compressive Sampling of Stochastic Gradients for Efficient Communication in\n"
    "Distributed Deep Learning” (2020)."
)


def write(path: Path, title: str, settings: str, *blocks: Sequence[str]) -> Path:
    """A Markdown file: the title, the paper, how it was measured, then blocks of lines. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [[f"# {title}"], [PAPER], settings.strip().splitlines(), *blocks]
    path.write_text("\n\n".join("\n".join(part) for part in parts) + "\n", encoding="utf-8")
    return path
