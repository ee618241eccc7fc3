"""The inner loops in numba: same names and same bytes as the reference."""
