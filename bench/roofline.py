"""What each op must move and compute at the least, whatever the implementation, and how long that takes at best.

Bytes: each tensor that is given is read once, each that is asked for is written once. The backward of an op comes
later than its forward, so it reads its inputs again; a loss, whose incoming gradient is one number, can do both in one.
Operations: additions and multiplications; a division, a root, an exponential or a logarithm counts as one too, so the
bound is a lower one. Both bounds are for caches that hold nothing when a call begins and everything within it: what
stays in cache from call to call can be faster than the roofline.
"""

from __future__ import annotations

from typing import NamedTuple


class Work(NamedTuple):
    """The least that an op has to do."""

    bytes: int
    operations: int


class Rates(NamedTuple):
    """What the machine can do, as measured.

    Args:
        bytes: copied a second, read plus written.
        operations: a second in a large product of matrices.
    """

    bytes: float
    operations: float


def least_seconds(work: Work, rates: Rates) -> float:
    """The roofline: whichever takes longer, moving or computing."""
    return max(work.bytes / rates.bytes, work.operations / rates.operations)


class Interpolation(NamedTuple):
    """Operations of a sample: for each pixel the weights, and for each of its channels the rest.

    Args:
        weights: of the taps along both axes.
        value: the weighted sum of the taps.
        slopes: its derivatives to the position, times the gradient, added up.
        taps: the gradient to the taps, added to them.
    """

    weights: int
    value: int
    slopes: int
    taps: int


INTERPOLATIONS = {
    "nearest": Interpolation(weights=0, value=0, slopes=0, taps=1),
    # (1 - x) and (1 - y), four products; four products and three sums; two differences along each axis, blended (3
    # each) and times the gradient; four taps: times, plus.
    "bilinear": Interpolation(weights=6, value=7, slopes=12, taps=8),
    # Four polynomials of four operations an axis; four rows of four products and three sums, and one of these rows;
    # rows of values and of slopes and one of each, times the gradient; the gradient down four rows, along each, added.
    "bicubic": Interpolation(weights=32, value=35, slopes=74, taps=36),
}


def warp(
    image_numel: int,
    channels: int,
    element: int,
    map_bytes: int,
    position: int,
    pass_name: str,
    interpolation: Interpolation = INTERPOLATIONS["bilinear"],
) -> Work:
    """A warp to images of the same size.

    Args:
        image_numel: of the batch, channels included.
        channels: of an image.
        element: bytes of a pixel's channel.
        map_bytes: the parameters of the maps.
        position: operations for a position of an output pixel.
        pass_name: ``forward``; ``parameters``, with the gradient to the maps; ``all``, to the images too.
        interpolation: what a sample takes.
    """
    image, pixels = image_numel * element, image_numel // channels
    weights, values = interpolation.weights, interpolation.value * channels
    forward = Work(2 * image + map_bytes, pixels * (position + weights + values))
    if pass_name == "forward":
        return forward
    slopes = interpolation.slopes * channels
    backward = Work(2 * image + 2 * map_bytes, pixels * (2 * position + weights + slopes))
    if pass_name == "all":
        backward = Work(backward.bytes + image, backward.operations + pixels * interpolation.taps * channels)
    return Work(forward.bytes + backward.bytes, forward.operations + backward.operations)


def positions(op: str, points: int = 0, coarse: bool = False) -> int:
    """Operations for one position along a row, where what is the same for a row costs nothing."""
    if op == "affine_warp":
        return 4  # x and y: times a, plus the row's
    if op == "projective_warp":
        return 8  # three such forms and two divisions
    if op == "flow_warp":
        return 2 + (6 if coarse else 0)  # the identity plus the flow; interpolated along the row: three each
    return points * 11 + 4  # a point: squared distance (4), logarithm, product, two weighted sums (4); an affine map


def rows(numel: int, element: int, gradients: int, sides: int = 2) -> Work:
    """A loss on the logits of ``sides`` networks, with the gradient to ``gradients`` of them.

    Args:
        numel: of one side's logits.
        element: bytes of a logit.
    """
    softmax, divergence, gradient = 5, 3, 4  # scale, maximum, difference, exponential, sum; p (log p - log q), sum
    operations = numel * (sides * softmax + divergence + gradients * gradient)
    return Work((sides + gradients) * numel * element, operations)


def linear_rows(rows_count: int, width: int, classes: int, element: int, trained: int, followed: int) -> Work:
    """A loss on two linear heads of one width, whose logits need not be in memory.

    Args:
        trained: heads whose weight gets a gradient.
        followed: heads whose features get one.
    """
    features, weight = rows_count * width, width * classes
    moved = 2 * (features + weight) + followed * features + trained * weight
    products = 2 * rows_count * width * classes * (2 + trained + followed)
    gradients = max(trained, followed)
    return Work(moved * element, products + rows(rows_count * classes, element, gradients).operations)


def guided_step(numel: int, element: int, pass_name: str) -> Work:
    """Three tensors in, two out: guidance (3), clean latents and clip (5), the next latents (3); backward the same."""
    forward = Work(5 * numel * element, 11 * numel)
    if pass_name == "forward":
        return forward
    return Work(forward.bytes + 5 * numel * element, forward.operations + 11 * numel)
