"""The fixed augmentations that learned ones are compared with, for the same loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from hardfast.augment.augmentor import Augmentor, MeanStd
from hardfast.augment.mix import CutMix, MixUp
from hardfast.ops import _checks, affine_warp

POLICIES = {"cifar10": v2.AutoAugmentPolicy.CIFAR10, "imagenet": v2.AutoAugmentPolicy.IMAGENET}


class _Baseline(Augmentor):
    """Nothing is learned, so there is nothing to describe."""

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The noise as it is."""
        return dict(noise)

    def describe(self, size: tuple[int, int]) -> dict[str, MeanStd]:
        """Nothing."""
        return {}


class Unchanged(_Baseline):
    """Leaves the images as they are."""

    def noise(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """The images themselves."""
        return images


class CropFlip(_Baseline):
    """Cuts every image at random out of itself with an eighth of its side of zeros around, and mirrors it or not.

    Args:
        flip: whether every second image, by chance, is mirrored.

    Gradients: to the images. It can be compiled.
    """

    def __init__(self, *, flip: bool = True) -> None:
        super().__init__()
        self.flip = flip

    def noise(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Uniform numbers: ``crop [B, 2]``, (x, y), and ``flip [B]``."""
        count, device = len(images), images.device
        return {
            "crop": torch.rand(count, 2, generator=generator, device=device),
            "flip": torch.rand(count, generator=generator, device=device),
        }

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A shift by whole pixels and perhaps a reflection, as maps ``[B, 2, 3]`` of the name ``"theta"``."""
        height, width = images.shape[2:]
        rows = []
        for axis, length in enumerate((width, height)):
            reach = (length + 4) // 8
            # Just below 1, a number may be rounded up.
            shift = (noise["crop"][:, axis] * (2 * reach + 1)).floor().clamp_max(2 * reach) - reach
            own = torch.ones_like(shift)
            if self.flip and axis == 0:
                own = torch.where(noise["flip"] < 0.5, -own, own)
            other = torch.zeros_like(shift)
            rows.append(torch.stack([*((own, other) if axis == 0 else (other, own)), 2 * shift / length], 1))
        return {"theta": torch.stack(rows, 1)}

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """Moves whole pixels."""
        return affine_warp(images, variables["theta"], mode="nearest")

    def extra_repr(self) -> str:
        return f"flip={self.flip}"


class _TorchvisionBaseline(_Baseline):
    """Applies a random transform of torchvision, by a draw of its own for every image.

    The images, 1 or 3 channels in [0, 1], are rounded to the 256 levels that these transforms are made for, so there is
    no gradient to them. It runs image by image and cannot be compiled. PyTorch's global generators, which torchvision
    draws from, are left as they were.

    Args:
        policy: of ``torchvision.transforms.v2``.
        flip: whether every second image, by chance, is mirrored first.
    """

    compilable = False

    def __init__(self, policy: v2.Transform, *, flip: bool) -> None:
        super().__init__()
        self.policy = policy
        self.flip = flip

    def noise(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """A ``seed [B]``, int64, and a uniform number ``flip [B]``."""
        count, device = len(images), images.device
        return {
            "seed": torch.randint(2**62, (count,), generator=generator, device=device),
            "flip": torch.rand(count, generator=generator, device=device),
        }

    @torch.no_grad()
    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """The images under the transform, in their dtype."""
        _checks.floating_tensor("images", images)
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"images must have shape [B, 1 or 3, H, W], got {list(images.shape)}")
        levels = (255 * images.clamp(0, 1)).round().to(torch.uint8)
        if self.flip:
            levels = torch.where((variables["flip"] < 0.5).view(-1, 1, 1, 1), levels.flip(-1), levels)
        results = []
        with torch.random.fork_rng([images.device] if images.is_cuda else []):
            for image, seed in zip(levels, variables["seed"].tolist(), strict=True):
                torch.random.default_generator.manual_seed(seed)
                if images.is_cuda:
                    torch.cuda.default_generators[images.get_device()].manual_seed(seed)
                results.append(self.policy(image))
        if not results:
            return images
        return torch.stack(results).to(images.dtype) / 255

    def extra_repr(self) -> str:
        return f"flip={self.flip}"


class RandAugment(_TorchvisionBaseline):
    """Some transforms in a row, chosen at random, of one strength.

    Args:
        operations: how many, >= 0.
        magnitude: their strength, in 0 to 30.
        flip: whether every second image, by chance, is mirrored first.

    Source: Cubuk et al., RandAugment: Practical Automated Data Augmentation with a Reduced Search Space, 2020.
    """

    def __init__(self, *, operations: int = 2, magnitude: int = 9, flip: bool = True) -> None:
        _checks.integer("operations", operations, 0)
        _checks.integer("magnitude", magnitude, 0)
        if magnitude > 30:
            raise ValueError(f"magnitude must be at most 30, got {magnitude}")
        super().__init__(v2.RandAugment(operations, magnitude), flip=flip)


class AutoAugment(_TorchvisionBaseline):
    """Two transforms in a row, one of 25 pairs that were found by a search.

    Args:
        policy: on what they were found, ``"cifar10"`` or ``"imagenet"``.
        flip: whether every second image, by chance, is mirrored first.

    Source: Cubuk et al., AutoAugment: Learning Augmentation Strategies from Data, 2019.
    """

    def __init__(self, *, policy: str = "cifar10", flip: bool = True) -> None:
        _checks.one_of("policy", policy, POLICIES)
        super().__init__(v2.AutoAugment(POLICIES[policy]), flip=flip)


class TrivialAugmentWide(_TorchvisionBaseline):
    """One transform of any strength, chosen at random.

    Args:
        flip: whether every second image, by chance, is mirrored first.

    Source: Müller and Hutter, TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation, 2021.
    """

    def __init__(self, *, flip: bool = True) -> None:
        super().__init__(v2.TrivialAugmentWide(), flip=flip)


class AugMix(_TorchvisionBaseline):
    """A random mean of the image and of three chains of transforms; without the paper's consistency loss.

    Args:
        severity: the transforms' strength, in 1 to 10.
        flip: whether every second image, by chance, is mirrored first.

    Source: Hendrycks et al., AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty, 2020.
    """

    def __init__(self, *, severity: int = 3, flip: bool = True) -> None:
        _checks.integer("severity", severity, 1)
        if severity > 10:
            raise ValueError(f"severity must be at most 10, got {severity}")
        super().__init__(v2.AugMix(severity), flip=flip)


#: The classes of the baselines by name.
BASELINES: dict[str, Callable[..., Augmentor]] = {
    "none": Unchanged,
    "crop_flip": CropFlip,
    "rand_augment": RandAugment,
    "auto_augment": AutoAugment,
    "trivial_augment": TrivialAugmentWide,
    "augmix": AugMix,
    "mixup": MixUp,
    "cutmix": CutMix,
}


def make_baseline(name: str, *, flip: bool = True, policy: str = "cifar10") -> Augmentor:
    """Makes a fixed augmentation by name.

    Args:
        name: one of :data:`BASELINES`.
        flip: whether images are mirrored too, where the baseline can: not for what has a left and a right, as digits.
            It makes no difference to ``none``, ``mixup`` and ``cutmix``.
        policy: of ``auto_augment``, ``"cifar10"`` or ``"imagenet"``.

    Returns:
        an augmentor without parameters.

    Raises:
        ValueError: there is no such name or policy.
    """
    _checks.one_of("name", name, BASELINES)
    _checks.one_of("policy", policy, POLICIES)
    options: dict[str, Any] = {} if name in ("none", "mixup", "cutmix") else {"flip": flip}
    if name == "auto_augment":
        options["policy"] = policy
    return BASELINES[name](**options)
