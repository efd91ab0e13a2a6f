"""What the engine needs to know of a method."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vireid_fast.config import Config
from vireid_fast.engine.clip_setup import Backbone
from vireid_fast.engine.stage import Stage
from vireid_fast.engine.training_data import TrainingImages, build_augmentation


class Method(ABC):
    """A method: a model, its training stages, its test-time features."""

    def __init__(self, config: Config, backbone: Backbone, num_identities: int) -> None:
        self.config = config
        self.model = self.build_model(backbone, num_identities)
        self.model.to(config.device)
        self.augmentation = build_augmentation(config.augment)

    @abstractmethod
    def build_model(self, backbone: Backbone, num_identities: int) -> nn.Module:
        """The model, on the CPU."""

    @abstractmethod
    def stages(self, images: TrainingImages) -> list[Stage]:
        """Training stages in their order."""

    @abstractmethod
    def encode(self, images: Tensor, modality: str) -> Tensor:
        """Test-time features of normalised images of one modality."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input."""
        return self.config.data.height, self.config.data.width
