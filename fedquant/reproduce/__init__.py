"""The papers' experiments, with each claim beside what was measured."""
