"""The augmentor of a recipe of HARD: which family, and what it minimises."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from hardfast.augment import (
    AffineAugmentor,
    Augmentor,
    ColorAugmentor,
    FlowAugmentor,
    HierarchicalAugmentor,
    LatentAugmentor,
    MixAugmentor,
    ProjectiveAugmentor,
    SequentialAugmentor,
    ThinPlateAugmentor,
)
from hardfast.data.image_set import ImageSet
from hardfast.data.splits import LabelledImages
from hardfast.distill.objectives import AugmentorObjective
from hardfast.models.autoencoder import (
    load_autoencoder,
    small_autoencoder,
    small_vdvae,
    small_vdvae_config,
    train_autoencoder,
    train_vdvae,
)
from hardfast.models.vdvae import VDVAE, VDVAEConfig, load_vdvae
from hardfast.ops import _checks
from hardfast.recipes.cache import cached
from hardfast.recipes.recipe import earlier_code, of_other_choices, our_choice, seeded

if TYPE_CHECKING:
    from typing_extensions import Self

Family = Literal[
    "affine",
    "translation",
    "linear",
    "projective",
    "flow",
    "thin_plate",
    "color",
    "mix",
    "affine_flow_color",
    "latent",
    "vdvae",
]
#: Families that edit the codes of an autoencoder; those of all others are drawn from the mixture that is learned.
_ENCODED: tuple[Family, ...] = ("latent", "vdvae")
_DRAWN: tuple[Family, ...] = tuple(family for family in get_args(Family) if family not in _ENCODED)
#: The families that read an option, of those that not all of them do.
_USERS: dict[str, tuple[Family, ...]] = {
    "grid": ("flow", "thin_plate", "affine_flow_color"),
    "source": _ENCODED,
    "vdvae": ("vdvae",),
    "blocks": ("vdvae",),
    "autoencoder_steps": _ENCODED,
    **dict.fromkeys(("initial_scale", "learn_mean"), (*_DRAWN, "latent")),
    **dict.fromkeys(("components", "conditional"), _DRAWN),
}
_VDVAES = {"cifar10": VDVAEConfig.CIFAR10, "imagenet32": VDVAEConfig.IMAGENET32, "imagenet64": VDVAEConfig.IMAGENET64}
#: Images of the training set in whose spread an autoencoder's augmentor describes what it learned, and pixels of these
#: in all, which bound the memory of encoding them.
_REFERENCES, _REFERENCE_PIXELS = 256, 2**20
#: Sides of the images that the small autoencoders are made for: up to, of the plain one; exactly, of the very deep one.
_SMALL_SIDE, _SMALL_VDVAE_SIDE = 64, 28
#: Gaussians, and control points, whose covariance is learned: more would be made in memory before anything is trained.
_MOST = 1024


@dataclass(frozen=True)
class AugmentorConfig:
    """The augmentor and what it minimises.

    Args:
        family: what it does to images: ``affine`` maps, or their ``translation`` or ``linear`` part alone;
            ``projective`` maps; a coarse ``flow``; a ``thin_plate`` spline; affine maps of the ``color``; a ``mix`` of
            the batch; affine map, flow and colour in turn, ``affine_flow_color``; edits of the codes of an autoencoder,
            ``latent``, or of a very deep VAE, ``vdvae``.
        initial_scale: initial standard deviation: of positions in half image sides, of colours in the full range, of
            codes in their spread.
        components: Gaussians in the mixture that it learns.
        conditional: whether the distribution depends on the image.
        learn_mean: whether the mean is learned, and not the scale alone. A mean is one more way to hide from the
            student, which follows it from place to place; without it the distribution can only widen.
        grid: rows and columns of the control points, of ``flow`` and ``thin_plate``.
        source: of ``latent``: a folder or repository of an autoencoder of diffusers; of ``vdvae``: a released
            checkpoint. Empty for a small one that is trained here, once.
        vdvae: which of the released ones the checkpoint is.
        blocks: first block of the very deep VAE that is edited, and the one after the last; the second half if 0 and 0.
        autoencoder_steps: of the small autoencoder's training.
        learning_rate: the highest, of Adam; it falls with the student's.
        teacher_weight: how strongly the teacher's answer is held.
        student_weight: how strongly disagreement is sought.
        form: of the objective.
    """

    family: Family = field(default="affine", metadata={"source": "earlier code"})
    initial_scale: float = earlier_code(0.1)
    components: int = earlier_code(1)
    conditional: bool = earlier_code(False)
    learn_mean: bool = earlier_code(True)
    grid: tuple[int, int] = our_choice((4, 4))
    source: str = our_choice("")
    vdvae: Literal["cifar10", "imagenet32", "imagenet64"] = our_choice("cifar10")
    blocks: tuple[int, int] = our_choice((0, 0))
    autoencoder_steps: int = our_choice(1000)
    learning_rate: float = our_choice(0.03)
    teacher_weight: float = our_choice(4.0)
    student_weight: float = our_choice(1.0)
    form: Literal["saturating", "non_saturating"] = our_choice("non_saturating")

    def objective(self, temperature: float, divergence: str) -> AugmentorObjective:
        """Makes the objective."""
        return AugmentorObjective(temperature, self.teacher_weight, self.student_weight, self.form, divergence)

    def unused(self) -> dict[str, str]:
        """The options that the family does not read, and what each is of."""
        unused = of_other_choices("family", self.family, _USERS)
        if self.family == "vdvae" and not self.source:
            unused["vdvae"] = "of a released checkpoint, which source names"
        if self.source:
            unused.setdefault("autoencoder_steps", "of a network that is trained here, not of one from source")
        return unused

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises ``ValueError`` for values that no augmentor can be made of; networks and data are not looked at."""
        _checks.integer("autoencoder_steps", self.autoencoder_steps, 1)
        if self.components > _MOST:
            raise ValueError(f"augmentor.components must be at most {_MOST}; got {self.components}")
        if math.prod(self.grid) > _MOST:
            raise ValueError(f"augmentor.grid must have at most {_MOST} control points; got {self.grid}")
        if self.family not in _ENCODED:
            self._make(image_shape)
            return
        if self.family == "latent":
            _checks.positive("initial_scale", self.initial_scale)
        height, width = image_shape[1:]
        if self.family == "vdvae" and self.source:
            side = _VDVAES[self.vdvae].image_size
            if image_shape != (3, side, side):
                raise ValueError(
                    f"augmentor.vdvae must be the very deep VAE of images {list(image_shape)}; "
                    f"got {self.vdvae!r}, which is for [3, {side}, {side}]"
                )
        if not self.source:
            fits = height == width == _SMALL_VDVAE_SIDE if self.family == "vdvae" else max(height, width) <= _SMALL_SIDE
            if not fits:
                raise ValueError(
                    f"augmentor.source must be given for the family {self.family!r} and images {list(image_shape)}: "
                    f"the small one that would be trained here is for {_SMALL_VDVAE_SIDE} px (vdvae) or up to "
                    f"{_SMALL_SIDE} px (latent)"
                )
        if self.family == "vdvae":
            self._check_blocks(image_shape[0])

    def _check_blocks(self, channels: int) -> None:
        config = _VDVAES[self.vdvae] if self.source else small_vdvae_config(channels)
        first, end = self.blocks
        if any(self.blocks) and not 0 <= first < end <= len(config.decoder):
            raise ValueError(
                f"augmentor.blocks must be the first block, >= 0, and one after it, up to {len(config.decoder)}; "
                f"got {first} and {end}"
            )

    def build(
        self, images: ImageSet, image_shape: tuple[int, int, int], cache: Path, device: torch.device, progress: bool
    ) -> Augmentor:
        """Makes the augmentor, on a device.

        Args:
            images: the training images, which the small autoencoders are trained on.
            image_shape: ``(C, H, W)``.
            cache: directory of networks that are trained once.
            device: of the augmentor.
            progress: whether to show a bar.

        Raises:
            FileNotFoundError: ``source`` is not there.
            ValueError: there is none, and the images that a small one would be trained on are not in memory.
        """
        if self.family not in _ENCODED:
            return self._constrained(self._make(image_shape)).to(device)
        count = min(_REFERENCES, _REFERENCE_PIXELS // (image_shape[1] * image_shape[2]), len(images))
        index = torch.arange(max(count, 2))
        references = images.load(index).to(device)
        make = self._latent if self.family == "latent" else self._vdvae
        return self._constrained(make(images, image_shape, references, cache, progress)).to(device)

    def shrunk(self) -> Self:
        """What ``smoke`` makes of it."""
        return dataclasses.replace(self, autoencoder_steps=min(self.autoencoder_steps, 2))

    def _constrained(self, augmentor: Augmentor) -> Augmentor:
        for name, parameter in augmentor.named_parameters():
            if name.rpartition(".")[2] == "mean_offset":
                parameter.requires_grad_(self.learn_mean)
        return augmentor

    def _make(self, image_shape: tuple[int, int, int]) -> Augmentor:
        common: dict[str, Any] = {
            "initial_scale": self.initial_scale,
            "components": self.components,
            "conditional": self.conditional,
            "in_channels": image_shape[0],
        }
        makers: dict[str, Callable[[], Augmentor]] = {
            "affine": lambda: AffineAugmentor("full", **common),
            "translation": lambda: AffineAugmentor("translation", **common),
            "linear": lambda: AffineAugmentor("no_translation", **common),
            "projective": lambda: ProjectiveAugmentor(**common),
            "flow": lambda: FlowAugmentor(self.grid, **common),
            "thin_plate": lambda: ThinPlateAugmentor(self.grid, **common),
            "color": lambda: ColorAugmentor("full", **common),
            "mix": lambda: MixAugmentor(**common),
        }
        if self.family == "affine_flow_color":
            return SequentialAugmentor(*(makers[part]() for part in ("affine", "flow", "color")))
        return makers[self.family]()

    def _latent(
        self, images: ImageSet, image_shape: tuple[int, int, int], references: Tensor, cache: Path, progress: bool
    ) -> Augmentor:
        channels, height, width = image_shape
        if self.source:
            vae = load_autoencoder(self.source)
        else:
            vae = self._trained_here(small_autoencoder, train_autoencoder, images, image_shape, cache, progress)
        return LatentAugmentor.from_autoencoder(
            vae.to(references.device),
            (height, width),
            channels,
            initial_scale=self.initial_scale,
            edit="network",
            reference=references,
        )

    def _vdvae(
        self, images: ImageSet, image_shape: tuple[int, int, int], references: Tensor, cache: Path, progress: bool
    ) -> Augmentor:
        vae: VDVAE
        if self.source:
            vae = load_vdvae(self.source, _VDVAES[self.vdvae])
        else:
            vae = self._trained_here(small_vdvae, train_vdvae, images, image_shape, cache, progress)
        blocks = len(vae.latent_shapes)
        start, end = self.blocks if any(self.blocks) else (blocks // 2, blocks)
        return HierarchicalAugmentor(vae.to(references.device), start, end, reference=references)

    def _trained_here(
        self,
        make: Callable[[int], Any],
        train: Callable[..., Any],
        images: ImageSet,
        image_shape: tuple[int, int, int],
        cache: Path,
        progress: bool,
    ) -> Any:
        """A small autoencoder of the training images, from the cache or into it."""
        if not isinstance(images, LabelledImages):
            raise ValueError(
                "augmentor.source must be given where the training images are files: a small autoencoder is trained "
                "on images in memory"
            )
        everything = images.load(torch.arange(len(images)))
        # The same images give the same network, whatever recipe or seed asks for it.
        told = {"count": len(images), "sum": math.fsum(everything.double().mean((1, 2, 3)).tolist())}
        settings = {"kind": make.__name__, "shape": image_shape, "steps": self.autoencoder_steps, "images": told}

        def trained(network: nn.Module) -> nn.Module:
            bar = "autoencoder" if progress else None
            return train(network, everything, steps=self.autoencoder_steps, progress=bar)

        return cached(cache, make.__name__, settings, seeded(lambda: make(image_shape[0]), 0), trained)
