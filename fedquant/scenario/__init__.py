"""Scenario files: who the sensors are, what they learn and how they speak."""

from fedquant.scenario.load import find, load
from fedquant.scenario.schema import Scenario

__all__ = ["Scenario", "find", "load"]
