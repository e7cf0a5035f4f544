"""ResNet-18 for 32x32 images, normalized by Layer Normalization only.

The residual network of He et al. 2015 (arXiv:1512.03385) in its CIFAR shape: a 3x3 stem without pooling and
two basic blocks in each of four layers. Every normalization is Ba et al. 2016 (arXiv:1607.06450) over (C, H, W).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]  # from a number of channels


class GroupNorm(nn.GroupNorm):
    """Layer normalization: normalize each image over all of (C, H, W), then scale and shift each channel.

    That is a group norm of one group; `nn.LayerNorm` would fix H and W and learn C*H*W scales.
    """

    def __init__(self, channels: int):
        super().__init__(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_cuda or x.dtype == torch.float32:
            return super().forward(x)
        with torch.autocast("cuda", enabled=False):  # which would compute in float32, with twice the traffic
            return F.group_norm(x, 1, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)

    def extra_repr(self) -> str:
        """Print alike with every torch; newer ones add `bias`."""
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class BasicBlock(nn.Module):
    """Add two 3x3 convolutions to the input: (N, in, H, W) to (N, out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, norm: Norm = GroupNorm):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = norm(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), norm(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """Classify normalized images (N, 3, 32, 32) into logits (N, 10).

    The layers return (N, 64, 32, 32), (N, 128, 16, 16), (N, 256, 8, 8) and (N, 512, 8, 8).

    Raises:
        ValueError: if the images are not of shape (N, 3, 32, 32).
    """

    def __init__(self, blocks: tuple[int, int, int, int], norm: Norm = GroupNorm):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = norm(64)
        self.layer1 = self._layer(64, 64, blocks[0], stride=1, norm=norm)
        self.layer2 = self._layer(64, 128, blocks[1], stride=2, norm=norm)
        self.layer3 = self._layer(128, 256, blocks[2], stride=2, norm=norm)
        self.layer4 = self._layer(256, 512, blocks[3], stride=1, norm=norm)
        self.linear = nn.Linear(512, 10)

    @staticmethod
    def _layer(in_channels: int, out_channels: int, blocks: int, *, stride: int, norm: Norm) -> nn.Sequential:
        first = BasicBlock(in_channels, out_channels, stride, norm)
        return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, norm=norm) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (3, 32, 32):
            raise ValueError(f"expected images of shape (N, 3, 32, 32), got {tuple(x.shape)}")
        return self.classify(x)

    def classify(self, x: Tensor) -> Tensor:
        """Return logits (N, 10) for images of any size, as the network is convolutional."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer1(out)
        out = self.layer2(out)
        out = self.layer3(out)
        out = self.layer4(out)
        out = torch.mean(out, dim=(2, 3))  # global average pooling: (N, 512)
        return self.linear(out)


def ResNet18(norm: Norm = GroupNorm) -> ResNet:
    """Build the ten-class ResNet-18: 11,173,962 parameters, 0.958 GMAC per image."""
    return ResNet((2, 2, 2, 2), norm)
