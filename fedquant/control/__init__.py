"""How fine the payloads of the next round should be."""
