"""What to try where a sampling chain runs out of memory."""

from __future__ import annotations


def memory_advice(strategy: str, *, images: int, blocks: bool, chunk: int | None = None) -> str:
    """What to try when a strategy runs out of memory, the first thing first.

    Args:
        strategy: the one in use.
        images: how many are sampled at a time.
        blocks: whether the denoiser can recompute its blocks.
        chunk: images that are decoded and judged at a time; None where nothing is.
    """
    hints = []
    if strategy == "full":
        hints.append("memory='per_step', which keeps one denoiser call instead of all")
    if strategy != "nested" and blocks:
        hints.append("memory='nested', which keeps the inputs of one call's blocks")
    if chunk is not None and chunk > 1:
        hints.append(f"a chunk below {chunk}, the images that are decoded and judged at a time")
    if images > 1:
        hints.append(f"fewer images at a time than {images}")
    hints.append("smaller latents or a denoiser in half precision")
    return f"Memory ran out in a sampling chain with memory={strategy!r}. Try in this order: " + "; ".join(hints) + "."
