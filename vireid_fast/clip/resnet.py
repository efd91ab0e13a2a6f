"""CLIP's modified ResNet, split into a stem and a trunk."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from vireid_fast._checks import require, require_choice, require_shape
from vireid_fast.clip.features import VisualFeatures
from vireid_fast.nn.attention_pool import AttentionPool2d

EXPANSION = 4
STEM_RELU = ("clip", "csdn")


class ResNetStem(nn.Module):
    """Three 3x3 convolutions with batch norm, then a 2x2 average pool; stride 4 in all.

    Args:
        width: Output channels; the first two convolutions have half of them.
        relu: "clip" applies a ReLU after every batch norm, as CLIP was trained. "csdn" applies one
            after the third only, as the released CSDN code does (nengdong96/CSDN@2224959).
    """

    def __init__(self, width: int, relu: str = "clip") -> None:
        super().__init__()
        require_choice("ResNetStem", "stem_relu", relu, STEM_RELU)
        require(width > 0 and width % 2 == 0, "ResNetStem", "width", "be positive and even", width)
        self.relu = relu
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into a map of shape (B, width, H / 4, W / 4)."""
        inner = F.relu if self.relu == "clip" else nn.Identity()
        x = inner(self.bn1(self.conv1(images)))
        x = inner(self.bn2(self.conv2(x)))
        return F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)


class Bottleneck(nn.Module):
    """Residual bottleneck with anti-aliased stride: an average pool stands before the convolution.

    Args:
        width_in: Input channels.
        planes: Inner channels; the output has 4 times as many.
        stride: 1 or 2.
    """

    def __init__(self, width_in: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        width_out = planes * EXPANSION
        self.conv1 = nn.Conv2d(width_in, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, width_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width_out)
        # CLIP starts each block as its shortcut.
        nn.init.zeros_(self.bn3.weight)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or width_in != width_out:
            # The names are those of OpenAI's state dict.
            self.downsample = nn.Sequential(
                OrderedDict(
                    [
                        ("-1", nn.AvgPool2d(stride)),
                        ("0", nn.Conv2d(width_in, width_out, 1, bias=False)),
                        ("1", nn.BatchNorm2d(width_out)),
                    ]
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to a map of shape (B, C, h, w)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.avgpool(F.relu(self.bn2(self.conv2(out))))
        return F.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class ResNetTrunk(nn.Module):
    """layer1 to layer4 and the attention pool.

    Args:
        grid: Size (h, w) of the layer4 map.
        width: Channels of the stem map.
        layers: Number of bottlenecks in each of the four layers.
        heads: Heads of the attention pool.
        projected_width: Joint width d.
        layer4_stride: 2 as in CLIP, or 1 for twice as fine a map.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        *,
        grid: tuple[int, int],
        width: int,
        layers: tuple[int, int, int, int],
        heads: int,
        projected_width: int,
        layer4_stride: int,
    ) -> None:
        super().__init__()
        require_choice("ResNetTrunk", "layer4_stride", layer4_stride, (1, 2))
        require(
            len(layers) == 4 and min(layers) > 0,
            "ResNetTrunk", "visual_layers", "be four positive numbers", layers,
        )  # fmt: skip
        self.grid = grid
        self.width = width
        width_in = width
        for index, stride in enumerate((1, 2, 2, layer4_stride)):
            planes = width * 2**index
            blocks = [Bottleneck(width_in, planes, stride)]
            width_in = planes * EXPANSION
            blocks += [Bottleneck(width_in, planes) for _ in range(layers[index] - 1)]
            setattr(self, f"layer{index + 1}", nn.Sequential(*blocks))
        require(
            heads > 0 and width_in % heads == 0,
            "ResNetTrunk", "visual_heads", f"divide the feature width {width_in}", heads,
        )  # fmt: skip
        self.attnpool = AttentionPool2d(grid, width_in, heads, projected_width)

    def forward(self, stem_map: Tensor) -> VisualFeatures:
        """Encode a stem map of shape (B, width, H / 4, W / 4)."""
        require_shape("ResNetTrunk", "stem_map", stem_map, ("B", self.width, "H / 4", "W / 4"))
        x = self.layer4(self.layer3(self.layer2(self.layer1(stem_map))))
        require(
            tuple(x.shape[2:]) == self.grid,
            "ResNetTrunk", "stem_map", f"lead to a map of {self.grid}", tuple(x.shape[2:]),
            "Resize the images, or build the model with their image_size.",
        )  # fmt: skip
        return VisualFeatures(x, x.mean(dim=(2, 3)), self.attnpool(x))


class ResNetVisual(nn.Module):
    """ResNet image tower: `stem`, then `trunk`.

    Args:
        image_size: (H, W) in pixels.
        width: Stem width (64 in RN50); the layer4 map has 32 times as many channels.
        layers: Number of bottlenecks in each of the four layers.
        heads: Heads of the attention pool.
        projected_width: Joint width d.
        layer4_stride: 2 as in CLIP, or 1; with 1 an image of 288x144 gives a map of 18x9.
        stem_relu: "clip" or "csdn"; see `ResNetStem`.

    Raises:
        ValueError: A size or choice does not fit.
    """

    convolutional = True
    """The map is a grid (B, C, h, w) that can be pooled, without a class token."""

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        width: int,
        layers: tuple[int, int, int, int],
        heads: int,
        projected_width: int,
        layer4_stride: int = 2,
        stem_relu: str = "clip",
    ) -> None:
        super().__init__()
        # The first convolution rounds up; the pools of stem, layer2, layer3 and layer4 round down.
        height, breadth = ((side + 1) // 2 // 8 // max(layer4_stride, 1) for side in image_size)
        self.grid = (height, breadth)
        require(min(self.grid) > 0, "ResNetVisual", "image_size", "leave a layer4 map", image_size)
        self.image_size = image_size
        self.feature_width = 8 * EXPANSION * width
        self.projected_width = projected_width
        self.stem = ResNetStem(width, stem_relu)
        self.trunk = ResNetTrunk(
            grid=self.grid, width=width, layers=layers, heads=heads,
            projected_width=projected_width, layer4_stride=layer4_stride,
        )  # fmt: skip

    def forward(self, images: Tensor) -> VisualFeatures:
        """Encode images of shape (B, 3, H, W), floating point, normalised."""
        require_shape("ResNetVisual", "images", images, ("B", 3, *self.image_size))
        return self.trunk(self.stem(images))

    def project(self, images: Tensor) -> Tensor:
        """`projected` of `forward(images)` alone."""
        return self(images).projected
