"""Where a scenario runs: in this process, or by Flower on Ray."""
