"""The inner loops: generator, scans, quantization and packing."""

from fedquant.kernels.reference import pack, quantize, rng, scan

__all__ = ["pack", "quantize", "rng", "scan"]
