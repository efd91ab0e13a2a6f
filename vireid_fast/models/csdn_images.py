"""The image side of CSDN: what its test features need, without texts.

Checkpoints of the released code hold no table of token embeddings, so that the text side of `CSDN`
cannot be rebuilt from them; its features do not need it.
"""

from torch import Tensor, nn

from vireid_fast.clip import ResNetVisual
from vireid_fast.models.test_time import joint_features
from vireid_fast.models.two_stem import ImageFeatures, TwoStemEncoder
from vireid_fast.nn import BNNeck
from vireid_fast.ops import Backend


class CSDNImages(nn.Module):
    """Encoder and necks of `CSDN` under the same names, so that weights move between the two.

    Args:
        visual: CLIP's image tower for the size of the images.
        num_identities: Training identities C.
        backend: "fused" or "reference", as of `CSDN`.
    """

    def __init__(
        self, visual: ResNetVisual, num_identities: int, *, backend: Backend = "fused"
    ) -> None:
        super().__init__()
        self.encoder = TwoStemEncoder(visual, backend=backend)
        self.pooled_neck = BNNeck(self.encoder.feature_width, num_identities)
        self.projected_neck = BNNeck(self.encoder.projected_width, num_identities)

    @property
    def feature_width(self) -> int:
        """Width of `test_features`: both features of the image and of its mirror image."""
        return 2 * (self.encoder.feature_width + self.encoder.projected_width)

    def encode_images(self, visible: Tensor | None, infrared: Tensor | None) -> ImageFeatures:
        """Features f and p, visible rows first. See `TwoStemEncoder.forward`."""
        return self.encoder(visible, infrared)

    def test_features(self, images: Tensor, modality: str) -> Tensor:
        """Features for retrieval; arguments and shape as of `joint_features`."""
        return joint_features(self, images, modality)
