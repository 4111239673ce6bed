"""Out of memory: the error keeps its class, and says which strategy was in use and what to try."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from diffusion_models import TinyDenoiser
from torch import Tensor, nn

from hardfast.diffusion import CutOuts, GuidanceSettings, Sampler, Schedule, guide, seeded_noise
from hardfast.out_of_memory import advice_when_out_of_memory

SCHEDULE = Schedule.from_scheduler(DDIMScheduler(clip_sample=False), 3)
TOO_MUCH = 1 << 60


class NoBlocks(nn.Module):
    """Fails at a call, as the allocator of a GPU or of the CPU does."""

    def __init__(self, failing_call: int, gpu: bool) -> None:
        super().__init__()
        self.inner, self.failing_call, self.gpu = TinyDenoiser(), failing_call, gpu

    def forward(self, latents: Tensor, t: Tensor, conditioning: Tensor) -> Tensor:
        prediction = self.inner(latents, t, conditioning)
        if self.inner.calls == self.failing_call:
            if self.gpu:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return prediction


class Blocks(NoBlocks):
    def recompute_blocks(self):
        return self.inner.recompute_blocks()


def advice_of(denoiser: nn.Module, memory: str, images: int = 2) -> str:
    latents = torch.randn(images, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    conditioning = torch.randn(images, 6, dtype=torch.float64)
    with pytest.raises(RuntimeError) as caught:
        Sampler(denoiser, SCHEDULE, memory=memory)(latents, conditioning).latents.sum().backward()
    assert type(caught.value) is (torch.OutOfMemoryError if denoiser.gpu else RuntimeError)
    first, advice = str(caught.value).rsplit("\n", 1)
    assert "out of memory" in first or "can't allocate memory" in first
    assert f"with memory={memory!r}" in advice
    assert advice.count("Memory ran out") == 1
    return advice


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize(("memory", "call"), [("full", 2), ("per_step", 1), ("per_step", 5), ("reversible", 9)])
def test_forward_and_backward_say_what_to_try(memory, call, gpu):
    advice = advice_of(Blocks(call, gpu), memory)
    assert ("'per_step'" in advice.replace("with memory='per_step'", "")) == (memory == "full")
    assert advice.index("'nested'") < advice.index("fewer images at a time than 2")
    assert "chunk" not in advice


@pytest.mark.parametrize("memory", ["per_step", "recursive"])
def test_recomputation_for_trainable_parameters_says_it_too(memory):
    denoiser = NoBlocks(5, True)
    denoiser.inner.second.requires_grad_(True)
    advice_of(denoiser, memory)


@pytest.mark.parametrize("memory", ["full", "nested", "truncated"])
def test_only_what_is_possible_is_advised(memory):
    denoiser = (Blocks if memory == "nested" else NoBlocks)(2, True)
    advice = advice_of(denoiser, memory, images=1)
    assert "'nested'" not in advice.replace(f"with memory={memory!r}", "")
    assert "fewer images" not in advice


@pytest.mark.parametrize("where", ["chain", "classifier", "backward"])
def test_guidance_says_it_too(where):
    class Classifier(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if where == "classifier":
                torch.empty(TOO_MUCH, dtype=torch.uint8)
            return images.flatten(1)[:, :5]

    denoiser = Blocks(2 if where == "chain" else -1, True)
    if where == "backward":
        denoiser.inner.first.register_full_backward_hook(lambda *_: torch.empty(TOO_MUCH, dtype=torch.uint8))
    settings = GuidanceSettings(cutouts=CutOuts(size=4, smallest=4, count=2), iterations=1, keep_last=1, offsets=False)
    labels = torch.tensor([0, 1, 2])
    latents = seeded_noise([1, 2, 3], (2, 6, 6)).double()
    with pytest.raises(RuntimeError, match="memory='full'") as caught:
        guide(
            Sampler(denoiser, SCHEDULE, memory="full"),
            Classifier(),
            Classifier(),
            labels,
            latents,
            [1, 2, 3],
            conditioning=torch.randn(3, 6, dtype=torch.float64),
            settings=settings,
        )
    message = str(caught.value)
    assert message.count("Memory ran out") == 1
    assert ("chunk below 3" in message) == (where != "chain")


def test_other_errors_pass_through():
    error = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError) as caught, advice_when_out_of_memory("Try less."):
        raise error
    assert caught.value is error
