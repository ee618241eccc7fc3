from __future__ import annotations

from pathlib import Path

import pytest

ASH219 = Path(__file__).resolve().parents[3] / "shared" / "data" / "matrices" / "ash219.mtx"


@pytest.fixture(scope="session")
def ash219() -> Path:
    """The real matrix of 219 × 85 (SuiteSparse HB/ash219)."""
    if not ASH219.is_file():
        pytest.skip("no ash219.mtx in shared/data/matrices beside the checkout")
    pytest.importorskip("scipy", reason="Matrix Market files need scipy")
    return ASH219
