"""torchvision v2's random transforms for batches on any device: each image its own draw, one pass over the pixels.

Arguments and their meaning are torchvision's; :mod:`hardfast.geometry` says which way positions, angles and
translations count. Every transform is a module with three entries::

    parameters = transform.sample(images, generator)   # tensors, one entry a sample, on the device of images
    images = transform.apply(images, parameters)       # differentiable in both
    images = transform(images, generator)              # the two together
"""

from hardfast.transforms.affine import AffineParameters, RandomAffine
from hardfast.transforms.color import ColorJitter, ColorParameters
from hardfast.transforms.elastic import ElasticParameters, ElasticTransform
from hardfast.transforms.fused import Fused, FusedParameters
from hardfast.transforms.perspective import PerspectiveParameters, RandomPerspective

__all__ = [
    "AffineParameters",
    "ColorJitter",
    "ColorParameters",
    "ElasticParameters",
    "ElasticTransform",
    "Fused",
    "FusedParameters",
    "PerspectiveParameters",
    "RandomAffine",
    "RandomPerspective",
]
