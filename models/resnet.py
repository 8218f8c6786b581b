"""ResNet-18 and ResNet-50 (He et al. 2016), in any width, with a stem for small images.

Modules are named as in torchvision, so that weights pass between the two by name. The bottleneck is
version 1.5 (stride on the 3x3 convolution). Nothing runs in place: in bfloat16 on a CPU that is half as
fast, and autograd keeps neither operand anyway.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from models.batchnorm import BatchNorm2d

Arch = Literal["resnet18", "resnet50"]
Stem = Literal["imagenet", "small"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, channels, 3, stride)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(inputs, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, channels, H/stride, W/stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(y + shortcut)

    @property
    def last_norm(self) -> BatchNorm2d:
        """The normalisation whose gain may start at zero."""
        return self.bn2


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, channels, 1)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3, stride)
        self.bn2 = BatchNorm2d(channels)
        self.conv3 = _conv(channels, channels * self.expansion, 1)
        self.bn3 = BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(inputs, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, 4 channels, H/stride, W/stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(y + shortcut)

    @property
    def last_norm(self) -> BatchNorm2d:
        """The normalisation whose gain may start at zero."""
        return self.bn3


_SHAPES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(nn.Module):
    """A ResNet without classifier.

    `width` is the number of channels of the first stage (64 is the published network, 16 a quarter of it).
    `stem` "imagenet" is the 7x7 stride-2 convolution with max-pooling; "small" a 3x3 stride-2 convolution
    alone, for images below about 96 pixels. Raises ValueError for an unknown arch or stem.
    """

    def __init__(self, arch: Arch = "resnet50", width: int = 64, stem: Stem = "imagenet") -> None:
        super().__init__()
        if arch not in _SHAPES:
            raise ValueError(f"unknown arch {arch!r}: expected resnet18 or resnet50; nothing was built")
        if stem not in get_args(Stem):
            raise ValueError(f"unknown stem {stem!r}: expected imagenet or small; nothing was built")
        block, depths = _SHAPES[arch]
        self.conv1 = _conv(3, width, 7 if stem == "imagenet" else 3, 2)
        self.bn1 = BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        out = block.expansion
        self.layer1 = _stage(block, width, width, depths[0], stride=1)
        self.layer2 = _stage(block, width * out, width * 2, depths[1], stride=2)
        self.layer3 = _stage(block, width * 2 * out, width * 4, depths[2], stride=2)
        self.layer4 = _stage(block, width * 4 * out, width * 8, depths[3], stride=2)
        self.tap_channels = [width * 2 * out, width * 4 * out, width * 8 * out]
        self.features = width * 8 * out

    def stages(self, x: Tensor) -> list[Tensor]:
        """Return the stem's output and those of layer1 to layer4 (post-ReLU) for images [B, 3, S, S].

        Strides are 2, 4, 8, 16, 32 with the imagenet stem and 2, 2, 4, 8, 16 with the small one.
        """
        x = self.relu(self.bn1(self.conv1(x)))
        outputs = [x]
        x = self.maxpool(x)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            outputs.append(x)
        return outputs

    def forward_taps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return features [B, F] (float32 global average pool) and the taps conv3_x, conv4_x, conv5_x."""
        taps = self.stages(x)[2:]
        return taps[-1].mean((2, 3), dtype=torch.float32), taps

    def forward(self, x: Tensor) -> Tensor:
        """Return the global average pool [B, F], float32, of the last stage for images [B, 3, S, S]."""
        return self.forward_taps(x)[0]

    def initialise(self, generator: torch.Generator, zero_last_gamma: bool) -> None:
        """Draw all weights anew: Kaiming normal by fan-out, normalisation at identity.

        With `zero_last_gamma` every residual branch starts at zero (Goyal et al. 2017; SimCLR does so).
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
            elif isinstance(module, BatchNorm2d):
                module.reset_parameters()
        for block in self.modules():
            if zero_last_gamma and isinstance(block, BasicBlock | Bottleneck):
                nn.init.zeros_(block.last_norm.weight)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, 1, stride), BatchNorm2d(outputs))


def _stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, channels: int, depth: int, stride: int
) -> nn.Sequential:
    rest = [block(channels * block.expansion, channels, 1) for _ in range(depth - 1)]
    return nn.Sequential(block(inputs, channels, stride), *rest)
