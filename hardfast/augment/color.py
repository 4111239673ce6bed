"""A learned distribution of affine maps of the colours."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hardfast.augment.augmentor import MeanStd
from hardfast.augment.distribution import GaussianAugmentor
from hardfast.ops import _checks
from hardfast.ops._warp import colored, height_width, refuse_gradients_of_bytes
from hardfast.reference._sampling import compute_dtype, to_pixel_dtype

MODES = ("full", "diagonal", "grey")


class ColorAugmentor(GaussianAugmentor):
    """Changes the colours of every image by its own random affine map, ``color[:, :C] @ pixel + color[:, C]``.

    The entries of ``color`` are Gaussian about the identity; see :class:`hardfast.augment.GaussianAugmentor` for how
    they are learned.

    Args:
        mode: what is random: ``"full"`` (the matrix and an offset of each channel), ``"diagonal"`` (a gain and an
            offset of each channel) or ``"grey"`` (a gain and an offset that all channels share).
        in_channels: channels of the images, >= 1.
        initial_scale: initial standard deviation of every random entry, > 0; of an offset, 1 is the full range.
        components, conditional: as of :class:`hardfast.augment.AffineAugmentor`.
        clamp: whether values end at 0 and 1, beyond which there is no gradient.

    Example::

        augmentor = ColorAugmentor("full", in_channels=3)
        images = augmentor(images)            # learned: gradients reach mean and scale
        baseline = augmentor.frozen()         # same distribution, never learned
    """

    identity: Tensor

    def __init__(
        self,
        mode: str = "full",
        *,
        in_channels: int = 3,
        initial_scale: float = 0.1,
        components: int = 1,
        conditional: bool = False,
        clamp: bool = False,
    ) -> None:
        _checks.one_of("mode", mode, MODES)
        _checks.integer("in_channels", in_channels, 1)
        identity = torch.eye(in_channels, in_channels + 1)
        diagonal = [c * (in_channels + 1) + at for c in range(in_channels) for at in (c, in_channels)]
        super().__init__(
            identity if mode != "grey" else torch.tensor([1.0, 0.0]),
            initial_scale,
            free=diagonal if mode == "diagonal" else None,
            components=components,
            conditional=conditional,
            in_channels=in_channels,
        )
        self.mode = mode
        self.clamp = clamp
        self.register_buffer("identity", torch.eye(in_channels), persistent=False)

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One map an image, ``[B, C, C + 1]``, by the name ``"color"``."""
        entries = self.entries(images, noise)
        if self.mode != "grey":
            return {"color": entries}
        gain, offset = entries[:, :1, None], entries[:, 1:, None]
        return {"color": torch.cat([gain * self.identity, offset.expand(-1, len(self.identity), 1)], 2)}

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        """Maps the colours of every image ``[B, C, H, W]``."""
        color, dtype = variables["color"], compute_dtype(images)
        if color.shape[1] != images.shape[1]:
            raise ValueError(f"images must have in_channels = {color.shape[1]} channels, got {list(images.shape)}")
        # Half precision would quantise the map; the images keep their own dtype in any case.
        with torch.autocast(images.device.type, enabled=False):
            color = color.to(dtype)
            if images.dtype == torch.uint8:
                refuse_gradients_of_bytes("images", images, [color])
                color = torch.cat([color[..., :-1], 255 * color[..., -1:]], -1)  # offsets in units of the full range
                return to_pixel_dtype(colored(images.to(dtype), color), images.dtype)
            mapped = colored(images.to(dtype), color).to(images.dtype)
        return mapped.clamp(0, 1) if self.clamp else mapped

    @torch.no_grad()
    def scalars(self) -> dict[str, float]:
        scale = self.scale.flatten()
        parts = {name: rows.any(0).to(scale.device) for name, rows in self._parts().items()}
        return {f"scale_{name}": scale[entries].mean().item() for name, entries in parts.items()}

    @torch.no_grad()
    def describe(self, size: tuple[int, int]) -> dict[str, MeanStd]:
        """Gives the distribution in human units, of what happens to the colours.

        Args:
            size: ``(height, width)`` of the images in pixels, which makes no difference.

        Returns:
            ``gain_percent`` (how much brighter), ``offset_percent`` (of the full range) and, of a full matrix of
            several channels, ``mixing_percent`` (of another channel that is added); each over all channels and draws.
            Of a conditional distribution, the part that is the same for all images.
        """
        height_width("size", size)
        return self._described({f"{name}_percent": 100 * linear for name, linear in self._parts().items()})

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}, in_channels={self.in_channels}, clamp={self.clamp}, {super().extra_repr()}"

    def _parts(self) -> dict[str, Tensor]:
        """The entries by what they do, one a row, ``[., entries]``."""
        rows = torch.eye(self.rest.numel(), dtype=torch.float64)
        if self.mode == "grey":
            return {"gain": rows[:1], "offset": rows[1:]}
        channels = len(self.identity)
        at = torch.arange(channels * (channels + 1)).view(channels, channels + 1)
        parts = {"gain": rows[at.diagonal()], "offset": rows[at[:, -1]]}
        if self.mode == "full" and channels > 1:
            off_diagonal = ~torch.eye(channels, channels + 1, dtype=torch.bool)
            off_diagonal[:, -1] = False
            parts["mixing"] = rows[at[off_diagonal]]
        return parts
