"""Learning problems: data spread over sensors, a model and a loss. Importing this loads no torch."""
