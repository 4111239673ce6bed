"""The learned distribution of the augmentors: Gaussians or mixtures of them, of one kind for all images or by image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardfast.augment.augmentor import Augmentor, MeanStd
from hardfast.ops import _checks

#: How far apart the components of a mixture start, in initial scales: equal ones would have equal gradients for ever.
COMPONENT_SPREAD = 0.1
#: Pixels a side, at most, at which the network of a conditional distribution looks at an image.
HEAD_SIDE = 16


class GaussianAugmentor(Augmentor):
    """An augmentor whose variables are made of independent Gaussian entries, ``mean + scale * normal``.

    The draw is reparametrised, so that gradients reach ``mean`` and ``scale``; both are learned.

    ``scale`` is stored as its logarithm: it is positive without a clamp whose gradient would be zero, and one
    optimiser step changes a large and a small scale by the same factor, so that an entry can grow from 0.1 to
    0.4 as easily as another shrinks from 0.1 to 0.025. ``mean`` is stored as its offset from where nothing happens in
    units of the initial scale: at the start one step of Adam then moves mean and scale equally far. In the
    units of the entries the mean would be ten times as fast, and run from corner to corner ahead of the student
    instead of widening the scale.

    With ``components > 1`` every image draws one of several such Gaussians, by learned weights. The choice is a
    Gumbel softmax, straight through: the draw is that of one component alone, the gradient to the weights that of the
    soft choice (which is biased). The components start slightly apart, about the same mean.

    With ``conditional=True`` a small network looks at the image and adds to the means (in units of the initial scale)
    and to the logarithms of the scales. Its last layer starts at zero, so it starts as the distribution without it.

    Args:
        rest: ``[...]``, the entries where nothing happens.
        initial_scale: initial standard deviation, > 0.
        free: which of the entries, flattened, are random; all if None. The others stay at rest.
        relative: initial scale of each random entry in units of ``initial_scale``; all 1 if None.
        repeats: shape of the noise of one image, to which the shape of ``rest`` broadcasts: more than one draw of
            the same distribution. That of ``rest`` if None.
        components: number of Gaussians in the mixture, >= 1.
        conditional: whether the distribution depends on the image.
        in_channels: channels of the images; needed where the network looks at them.
    """

    rest: Tensor
    units: Tensor
    free_entries: Tensor

    def __init__(
        self,
        rest: Tensor,
        initial_scale: float,
        *,
        free: Sequence[int] | None = None,
        relative: Sequence[float] | None = None,
        repeats: Sequence[int] | None = None,
        components: int = 1,
        conditional: bool = False,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        if not (math.isfinite(initial_scale) and initial_scale > 0):
            raise ValueError(f"initial_scale must be a finite number > 0; got {initial_scale!r}")
        _checks.integer("components", components, 1)
        if in_channels is not None:
            _checks.integer("in_channels", in_channels, 1)
        if conditional and in_channels is None:
            raise ValueError("in_channels must be the number of channels of the images with conditional=True, got None")
        free = tuple(range(rest.numel())) if free is None else tuple(free)
        relative = (1.0,) * len(free) if relative is None else tuple(relative)
        self.initial_scale = initial_scale
        self.components = components
        self.in_channels = in_channels
        self.noise_shape = torch.Size(rest.shape if repeats is None else repeats)
        shape = (len(free),) if components == 1 else (components, len(free))
        self.mean_offset = nn.Parameter(torch.zeros(shape) if components == 1 else _apart(*shape))
        log_scale = torch.tensor([math.log(initial_scale * unit) for unit in relative])
        self.log_scale = nn.Parameter(log_scale.expand(shape).clone())
        self.weight_logits = None if components == 1 else nn.Parameter(torch.zeros(components))
        self.head = _Head(in_channels, shape) if conditional and in_channels is not None else None
        self.register_buffer("rest", rest.clone(), persistent=False)
        self.register_buffer("units", torch.tensor(relative), persistent=False)
        self.register_buffer("free_entries", torch.tensor(free), persistent=False)

    @property
    def mean(self) -> Tensor:
        """Mean of the entries, of the shape of ``rest``; of the whole mixture, and without the part of the image."""
        means = self._means(self.mean_offset)
        return means if self.components == 1 else torch.tensordot(self.weights, means, 1)

    @property
    def scale(self) -> Tensor:
        """Standard deviation of the entries, as :attr:`mean`; 0 where an entry is not random."""
        scales = self._entries(self.log_scale.exp())
        if self.components == 1:
            return scales
        apart = self._means(self.mean_offset) - self.mean
        return torch.tensordot(self.weights, scales.square() + apart.square(), 1).sqrt()

    @property
    def weights(self) -> Tensor:
        """Probability of each component, ``[components]``."""
        return self.log_scale.new_ones(1) if self.weight_logits is None else self.weight_logits.softmax(0)

    def noise(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Standard normal numbers, by the name ``"normal"``; of a mixture also standard Gumbel ones, ``"gumbel"``."""
        if images.dim() != 4:
            raise ValueError(f"images must have shape [B, C, H, W]; got {list(images.shape)}")
        like, count = self.log_scale, len(images)
        shape = (count, *self.noise_shape)
        noise = {"normal": torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)}
        if self.components > 1:
            waiting = like.new_empty(count, self.components).exponential_(generator=generator)
            noise["gumbel"] = -waiting.clamp_min(torch.finfo(like.dtype).tiny).log()
        return noise

    def entries(self, images: Tensor | None, noise: Mapping[str, Tensor]) -> Tensor:
        """One draw of all entries an image, ``[B, ...]``; without images, of the part that does not look at them."""
        offset, log_scale = self.mean_offset, self.log_scale
        if self.head is not None and images is not None:
            if images.shape[1] != self.in_channels:
                raise ValueError(
                    f"images must have in_channels = {self.in_channels} channels, got shape {list(images.shape)}"
                )
            moves = self.head(images.to(log_scale.dtype)).to(log_scale.dtype)  # [B, 2, (components,) entries]
            offset, log_scale = offset + moves[:, 0], log_scale + moves[:, 1]
        mean, scale = self._means(offset), self._entries(log_scale.exp())
        if self.weight_logits is not None:
            soft = (self.weight_logits + noise["gumbel"]).softmax(1)
            hard = torch.zeros_like(soft).scatter(1, soft.argmax(1, keepdim=True), 1.0)
            chosen = (hard + (soft - soft.detach())).view(*soft.shape, *[1] * self.rest.dim())
            mean, scale = (chosen * mean).sum(1), (chosen * scale).sum(1)
        return mean + scale * noise["normal"]

    @torch.no_grad()
    def arrays(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "scale": self.scale}

    def extra_repr(self) -> str:
        return f"initial_scale={self.initial_scale}, components={self.components}, conditional={self.head is not None}"

    def _means(self, offset: Tensor) -> Tensor:
        return self.rest + self._entries(self.initial_scale * (self.units * offset))

    def _entries(self, values: Tensor) -> Tensor:
        """Values of the random entries, ``[..., entries]``, among zeros, ``[..., *rest.shape]``."""
        zeros = values.new_zeros(*values.shape[:-1], self.rest.numel())
        return zeros.index_copy(-1, self.free_entries, values).unflatten(-1, self.rest.shape)

    def _quantities(self, linear: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations ``[Q]`` of linear functions ``[Q, noise]`` of the deviations from rest."""
        linear = linear.to("cpu", torch.float64)
        weights, means, scales = (
            value.to("cpu", torch.float64)
            for value in (
                self.weights,
                self._means(self.mean_offset) - self.rest,
                self._entries(self.log_scale.exp()),
            )
        )
        shape = (self.components, *self.noise_shape)
        means, variances = (
            value.view(-1, *self.rest.shape).expand(shape).flatten(1) @ matrix.T
            for value, matrix in ((means, linear), (scales.square(), linear.square()))
        )
        mean = weights @ means
        return mean, (weights @ (variances + (means - mean).square())).sqrt()

    def _described(self, quantities: Mapping[str, Tensor]) -> dict[str, MeanStd]:
        """Each of the quantities, linear functions ``[Q, noise]``, over all of its ``Q`` and all draws together."""
        result = {}
        for name, linear in quantities.items():
            mean, std = self._quantities(linear)
            centre = mean.mean()
            spread = (std.square() + (mean - centre).square()).mean().sqrt()
            result[name] = MeanStd(centre.item(), spread.item())
        return result


class _Head(nn.Module):
    """Looks at images of any size: made small, two strided convolutions, the mean of all places, a layer from 0."""

    def __init__(self, in_channels: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = (2, *shape)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
        )
        self.last = nn.Linear(32, math.prod(self.shape))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, images: Tensor) -> Tensor:
        # At most so many pixels a side: the look costs less than the warp that follows it.
        blocks = [-(-side // HEAD_SIDE) for side in images.shape[2:]]
        small = F.avg_pool2d(images, blocks, ceil_mode=True)
        return self.last(self.features(small).mean((2, 3))).unflatten(1, self.shape)


def _apart(components: int, count: int) -> Tensor:
    """Offsets ``[components, count]`` of mean zero, the same in every run."""
    offsets = COMPONENT_SPREAD * torch.randn(components, count, generator=torch.Generator().manual_seed(0))
    return offsets - offsets.mean(0)
