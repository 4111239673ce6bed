"""Augmentors: learned distributions of hard inputs, for HARD's loop and ConfiG's search alike."""

from hardfast.augment.affine import AffineAugmentor
from hardfast.augment.augmentor import Augmentor, MeanStd
from hardfast.augment.baselines import (
    BASELINES,
    AugMix,
    AutoAugment,
    CropFlip,
    RandAugment,
    TrivialAugmentWide,
    Unchanged,
    make_baseline,
)
from hardfast.augment.color import ColorAugmentor
from hardfast.augment.distribution import GaussianAugmentor
from hardfast.augment.flow import FlowAugmentor
from hardfast.augment.generative import DiffusionAugmentor
from hardfast.augment.hierarchical import HierarchicalAugmentor
from hardfast.augment.latent import LatentAugmentor
from hardfast.augment.mix import CutMix, MixAugmentor, MixUp
from hardfast.augment.projective import ProjectiveAugmentor
from hardfast.augment.sequence import SequentialAugmentor
from hardfast.augment.thin_plate import ThinPlateAugmentor
from hardfast.augment.warp import WarpAugmentor

__all__ = [
    "BASELINES",
    "AffineAugmentor",
    "AugMix",
    "Augmentor",
    "AutoAugment",
    "ColorAugmentor",
    "CropFlip",
    "CutMix",
    "DiffusionAugmentor",
    "FlowAugmentor",
    "GaussianAugmentor",
    "HierarchicalAugmentor",
    "LatentAugmentor",
    "MeanStd",
    "MixAugmentor",
    "MixUp",
    "ProjectiveAugmentor",
    "RandAugment",
    "SequentialAugmentor",
    "ThinPlateAugmentor",
    "TrivialAugmentWide",
    "Unchanged",
    "WarpAugmentor",
    "make_baseline",
]
