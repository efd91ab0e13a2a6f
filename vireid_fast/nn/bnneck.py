"""The neck between features and identity logits."""

from typing import NamedTuple

from torch import Tensor, nn


class NeckOutput(NamedTuple):
    """What a neck gives: features after batch normalisation, and identity logits."""

    normalized: Tensor
    logits: Tensor


class BNNeck(nn.Module):
    """Batch normalisation, then a bias-free identity classifier.

    (Luo et al., "Bag of Tricks", CVPRW 2019; here with CSDN's trainable BN bias.)

    Args:
        width: Feature width D.
        num_identities: Number of training identities C.
    """

    def __init__(self, width: int, num_identities: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.classifier = nn.Linear(width, num_identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, features: Tensor) -> NeckOutput:
        """Normalise and classify.

        Args:
            features: Shape (B, D).

        Returns:
            Normalised features (B, D) and logits (B, C).
        """
        normalized = self.norm(features)
        return NeckOutput(normalized, self.classifier(normalized))
