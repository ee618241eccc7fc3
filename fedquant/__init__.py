"""fedquant: cheap uplinks for federated learning, in real bytes."""
