"""The inner loops: generator, scans, quantization, packing and selection."""

from fedquant.kernels.reference import pack, quantize, rng, scan, topk

__all__ = ["pack", "quantize", "rng", "scan", "topk"]
