"""The inner loops: generator, scans, quantization and packing."""
