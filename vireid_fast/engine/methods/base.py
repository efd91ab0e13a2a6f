"""What the engine needs to know of a method."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, cast

from torch import Tensor, nn

from vireid_fast.config import Config, ConfigError
from vireid_fast.engine.clip_setup import Backbone
from vireid_fast.engine.runtime import Runtime
from vireid_fast.engine.stage import Stage
from vireid_fast.engine.training_data import build_augmentation
from vireid_fast.ops import Backend


class Method(ABC):
    """A method: a model, its training stages, its test-time features.

    Attributes:
        video: Whether it works on tracklets instead of images.
    """

    video: ClassVar[bool] = False

    def __init__(self, runtime: Runtime, backbone: Backbone, num_identities: int) -> None:
        self.runtime = runtime
        self.config = runtime.config
        # What a method and its stages call of the model is their own matter.
        self.model: Any = self.build_model(backbone, num_identities)
        self.model.to(self.config.device)
        self.augmentation = build_augmentation(self.config.augment)

    @abstractmethod
    def build_model(self, backbone: Backbone, num_identities: int) -> nn.Module:
        """The model, on the CPU."""

    @abstractmethod
    def stages(self, data: Any) -> list[Stage]:
        """Training stages in order, on `TrainingImages` or, for video, `TrainingTracklets`."""

    @abstractmethod
    def encode(self, images: Tensor, modality: str) -> Tensor:
        """Test-time features of normalised images, or clips (B, T, 3, H, W), of one modality."""

    @staticmethod
    @abstractmethod
    def processing(config: Config) -> dict[str, str]:
        """How the test features of a configuration are made, in words, for every result."""

    def warm_started(self) -> None:  # noqa: B027
        """Called when the shared parts were loaded from the run of another method."""

    @property
    def backend(self) -> Backend:
        """The configured backend, which was checked when it was read."""
        return cast(Backend, self.config.backend)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input."""
        return self.config.data.height, self.config.data.width


def require_vit(backbone: Backbone, method: str) -> None:
    """Refuse a convolutional image tower where a method needs tokens of a ViT."""
    if backbone.clip.visual.convolutional:
        raise ConfigError(
            f"config: clip.architecture must be a ViT for {method}, got "
            f"{backbone.clip.architecture.family!r}. Choose ViT-B/16 or ViT-small."
        )
