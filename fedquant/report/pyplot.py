"""matplotlib, for files alone."""

from __future__ import annotations

from typing import Any

from fedquant.errors import ConfigError


def pyplot() -> Any:
    """matplotlib.pyplot without a screen; the same picture gives the same file.

    Raises ConfigError where matplotlib is missing.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise ConfigError("pictures need matplotlib: pip install 'fedquant[report]'") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams["svg.hashsalt"] = "fedquant"
    return plt
