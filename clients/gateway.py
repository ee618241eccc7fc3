"""What every node is: some sensors of a run, who says hello and answers requests. Knows nothing of Flower."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from clients.attempts import begin
from fedquant.errors import CodecError, ConfigError
from fedquant.message import Hello, Reply, Request, Start
from fedquant.scenario import Scenario


class Gateway(ABC):
    """The sensors of one Flower node; sizes: samples of all sensors of the run.

    Raises ConfigError for a gateway that hosts none.
    """

    def __init__(self, scenario: Scenario, gateway: int, state_dir: Path, sizes: Sequence[int]) -> None:
        self.scenario, self.sizes = scenario, sizes
        size = scenario.topology.sensors_per_gateway
        self.sensors = tuple(range(gateway * size, min((gateway + 1) * size, scenario.sensors)))
        if not self.sensors:
            raise ConfigError(
                f"node {gateway}: its first sensor would be {gateway * size}, but {scenario.name} has only "
                f"{scenario.sensors}; start {scenario.gateways} nodes"
            )
        self.state_path = state_dir / f"{scenario.run_id:016x}" / f"node-{gateway:07}.safetensors"

    def hello(self, start: Start) -> Hello:
        """Who is here, as a run begins or goes on. Raises CodecError for a run that is not this node's."""
        self._check("start", start.run)
        attempt = begin(self.state_path, start) if self.remembers else 0
        return Hello(start.run, self.sensors, tuple(self.sizes[s] for s in self.sensors), attempt)

    def train(self, request: Request) -> Reply:
        """What the sensors answer. Raises CodecError for a request that is not for this node's run."""
        self._check("request", request.run)
        if strangers := set(request.sensors) - set(self.sensors):
            raise CodecError(f"request for sensors {sorted(strangers)}, this node has {list(self.sensors)}")
        return Reply(request.run, request.round, request.sensors, self.answers(request))

    def _check(self, what: str, run: int) -> None:
        if run != self.scenario.run_id:
            raise CodecError(f"{what} of run {run:016x}, this node is in run {self.scenario.run_id:016x}")

    @property
    @abstractmethod
    def remembers(self) -> bool:
        """Whether the node has a state."""

    @abstractmethod
    def answers(self, request: Request) -> tuple[tuple[bytes, ...], ...]:
        """The payloads of each sensor asked, one a slot."""
