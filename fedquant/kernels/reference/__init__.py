"""The inner loops in numpy: what they mean, byte for byte. The oracle, and the fallback."""
