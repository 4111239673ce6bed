"""Small networks for 28x28 images of digits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected ReLU network on flattened images, 784-512-128-32-10 as in the shift experiment of HARD.

    Args:
        widths: number of inputs, of each hidden layer, and of classes.
    """

    def __init__(self, widths: Sequence[int] = (784, 512, 128, 32, 10)) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"widths must be at least inputs and classes, all >= 1; got {tuple(widths)}")
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, images: Tensor) -> Tensor:
        """Maps images ``[B, ...]`` of ``widths[0]`` values each to logits ``[B, widths[-1]]``."""
        return self.layers(images)


class CNN(nn.Module):
    """Convolutions, each with ReLU and max pooling, then global average pooling, dropout and a linear layer.

    The defaults are the teacher of the shift experiment of HARD.

    Args:
        widths: channels of the 3x3 convolutions.
        pools: side in pixels of the max pooling after each; 1 for none.
        dropout: probability in [0, 1).
        in_channels: channels of the images.
        num_classes: number of logits.
    """

    def __init__(
        self,
        widths: Sequence[int] = (128, 64, 64),
        pools: Sequence[int] = (1, 2, 3),
        dropout: float = 0.1,
        in_channels: int = 1,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        if len(widths) != len(pools) or not widths:
            raise ValueError(f"widths and pools must be as many, at least one; got {tuple(widths)} and {tuple(pools)}")
        layers: list[nn.Module] = []
        for inputs, outputs, pool in zip((in_channels, *widths[:-1]), widths, pools, strict=True):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(pool)] if pool > 1 else []
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images ``[B, in_channels, H, W]`` to logits ``[B, num_classes]``."""
        return self.head(self.dropout(self.features(images).mean((2, 3))))


class ShiftRobustCNN(nn.Module):
    """A CNN that gives nearly the same answer wherever the object is, without having seen it shifted.

    Three things make it so. Every subsampling is an average over twice its stride, which removes most of the
    frequencies that would otherwise depend on the position (aliasing). Convolutions and averages see a border
    of two pixels around the canvas, so an object at the edge is seen as whole as one in the middle. And the
    features are reduced by their maximum over all positions, which does not care where it is.

    Args:
        widths: channels of the 3x3 convolutions; the first two are each followed by subsampling by 2.
        dropout: probability in [0, 1), before the linear layer.
        in_channels: channels of the images.
        num_classes: number of logits.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        dropout: float = 0.1,
        in_channels: int = 1,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"widths must be at least two; got {tuple(widths)}")
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(zip((in_channels, *widths[:-1]), widths, strict=True)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=2, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            layers += [nn.AvgPool2d(4, stride=2)] if index < 2 else []
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images ``[B, in_channels, H, W]`` to logits ``[B, num_classes]``."""
        return self.head(self.dropout(self.features(images).amax((2, 3))))
