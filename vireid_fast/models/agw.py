"""AGW at test time: the network that published AGW checkpoints hold.

Ye, Shen, Lin, Xiang, Shao, Hoi: "Deep Learning for Person Re-identification: A Survey and Outlook",
IEEE TPAMI 2022. Written after mangye16/Cross-Modal-Re-ID-baseline@32d881c `model.py` and @e817a26
`PAMI23_Supervised/resnet.py`, whose checkpoints `engine.imports.agw` reads. It is for features: the
package does not train it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vireid_fast._checks import require, require_choice
from vireid_fast.models.two_stem import MODALITIES
from vireid_fast.nn import BNNeck

EXPANSION = 4
POOLINGS = ("gem", "average")
NECKS = ("after", "before")
# Published: a fixed exponent, and a summand instead of a lower bound as in `nn.GeMPooling`.
_EXPONENT, _SUMMAND = 3.0, 1e-12


class AGW(nn.Module):
    """A ResNet with one stem per modality, non-local blocks, GeM pooling and a batch-norm neck.

    Args:
        num_identities: Training identities C.
        layers: Bottlenecks of the four layers.
        width: Channels of the stem map; the pooled feature has 32 times as many.
        non_local: Number of non-local blocks in each of the four layers; each stands behind one of
            the last bottlenecks.
        pooling: "gem" (AGW) or "average" (the baseline without non-local blocks).
        neck: Which feature is given: "after" batch normalisation (published results) or "before".

    Raises:
        ValueError: A size or choice does not fit.
    """

    def __init__(
        self,
        num_identities: int,
        *,
        layers: tuple[int, int, int, int] = (3, 4, 6, 3),
        width: int = 64,
        non_local: tuple[int, int, int, int] = (0, 2, 3, 0),
        pooling: str = "gem",
        neck: str = "after",
    ) -> None:
        super().__init__()
        require_choice("AGW", "pooling", pooling, POOLINGS)
        require_choice("AGW", "neck", neck, NECKS)
        require(
            len(non_local) == len(layers) == 4
            and all(0 <= few <= many for few, many in zip(non_local, layers, strict=True)),
            "AGW", "non_local", f"be at most the bottlenecks {layers}", non_local,
        )  # fmt: skip
        self.pooling = pooling
        self.neck_feature = neck
        self.visible_stem = Stem(width)
        self.infrared_stem = Stem(width)
        self.layers = nn.ModuleList()
        channels = width
        # The last layer keeps its map: stride 1 instead of ResNet's 2.
        for index, stride in enumerate((1, 2, 2, 1)):
            planes = width * 2**index
            self.layers.append(Layer(channels, planes, layers[index], stride, non_local[index]))
            channels = planes * EXPANSION
        self.neck = BNNeck(channels, num_identities)
        self.feature_width = channels

    @torch.no_grad()
    def test_features(self, images: Tensor, modality: str) -> Tensor:
        """Features for retrieval, of length 1: norm(BN(f)), or norm(f) with neck "before".

        Args:
            images: Normalised images of one modality. Shape (B, 3, H, W).
            modality: "visible" or "infrared".

        Returns:
            Shape (B, feature_width), float32.
        """
        require_choice("AGW.test_features", "modality", modality, MODALITIES)
        x = (self.visible_stem if modality == "visible" else self.infrared_stem)(images)
        for layer in self.layers:
            x = layer(x)
        pooled = self.pool(x.float())
        return F.normalize(self.neck.norm(pooled) if self.neck_feature == "after" else pooled)

    def pool(self, feature_map: Tensor) -> Tensor:
        """f of maps (B, C, h, w), nowhere negative: (mean_hw x^3 + 1e-12)^(1/3), or the mean."""
        if self.pooling == "average":
            return feature_map.mean((2, 3))
        powered = feature_map.pow(_EXPONENT).mean((2, 3))
        return (powered + _SUMMAND).pow(1.0 / _EXPONENT)


class Stem(nn.Module):
    """ResNet's first convolution, batch norm, ReLU and maximum pool; stride 4 in all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into a map of shape (B, width, H / 4, W / 4)."""
        return F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)


class Layer(nn.Module):
    """Bottlenecks; behind each of the last ones a non-local block.

    Args:
        channels: Input channels.
        planes: Inner channels of the bottlenecks.
        count: Number of bottlenecks.
        stride: Of the first one.
        non_local: Number of non-local blocks.
    """

    def __init__(
        self, channels: int, planes: int, count: int, stride: int, non_local: int
    ) -> None:
        super().__init__()
        width_out = planes * EXPANSION
        blocks = [Bottleneck(channels, planes, stride)]
        blocks += [Bottleneck(width_out, planes) for _ in range(count - 1)]
        self.blocks = nn.ModuleList(blocks)
        self.non_local = nn.ModuleList(NonLocal(width_out) for _ in range(non_local))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to a map (B, C, h, w)."""
        first = len(self.blocks) - len(self.non_local)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index >= first:
                x = self.non_local[index - first](x)
        return x


class Bottleneck(nn.Module):
    """ResNet's bottleneck, strided in its 3x3 convolution."""

    def __init__(self, channels: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        width_out = planes * EXPANSION
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, width_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width_out)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels != width_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width_out, 1, stride=stride, bias=False),
                nn.BatchNorm2d(width_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to a map (B, C, h, w)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class NonLocal(nn.Module):
    """x + BN(W y), y_i = 1 / N sum_j (theta(x_i) . phi(x_j)) g(x_j) over the N places of a map.

    Dot products divided by their number, no softmax (Wang et al., CVPR 2018, eq. 4).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, inner, 1)
        self.out = nn.Conv2d(inner, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to a map (B, C, h, w)."""
        query, key, value = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.value))
        weights = query.transpose(1, 2) @ key / key.shape[2]
        mixed = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.norm(self.out(mixed))
