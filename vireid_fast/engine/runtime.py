"""What every stage of a run is given: its settings, its processes, its number format."""

from dataclasses import dataclass

from vireid_fast.config import Config
from vireid_fast.engine.distributed import World
from vireid_fast.engine.precision import Precision


@dataclass(frozen=True)
class Runtime:
    """Settings of the run, the processes it runs on, and the precision of its encoders."""

    config: Config
    world: World
    precision: Precision

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.config.seed

    @property
    def device(self) -> str:
        """Device of this process."""
        return self.config.device
