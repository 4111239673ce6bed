"""Augmentors: modules that draw random transformations of a batch of images and can be trained to draw harder ones."""

from hardfast.augment.affine import AffineAugmentor, MeanStd

__all__ = ["AffineAugmentor", "MeanStd"]
