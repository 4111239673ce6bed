"""Augmentors: learned distributions of hard inputs, for HARD's loop and ConfiG's search alike."""

from hardfast.augment.affine import AffineAugmentor, MeanStd
from hardfast.augment.augmentor import Augmentor
from hardfast.augment.generative import DiffusionAugmentor, LatentAugmentor
from hardfast.augment.mix import CutMix, MixUp

__all__ = ["AffineAugmentor", "Augmentor", "CutMix", "DiffusionAugmentor", "LatentAugmentor", "MeanStd", "MixUp"]
