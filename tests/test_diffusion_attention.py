"""The attention of a diffusers model by one option of its adapter."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from diffusers.models import attention_processor
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusion_models import class_unet, prompt_unet, transformer
from torch import nn
from torch.nn import functional as F

from hardfast.diffusion import ClassUNetDenoiser, PromptUNetDenoiser, TransformerDenoiser

CASES = {
    "classes": (ClassUNetDenoiser, partial(class_unet, num_class_embeds=11), 3, torch.tensor([1, 7])),
    "prompts": (PromptUNetDenoiser, prompt_unet, 4, torch.randn(2, 5, 12)),
    "transformer": (TransformerDenoiser, transformer, 3, torch.tensor([1, 7])),
}


def processors(model: nn.Module) -> set[type]:
    return {type(layer.processor) for layer in model.modules() if isinstance(layer, Attention)}


@pytest.mark.parametrize("kind", CASES)
def test_sdpa_replaces_plain_attention_and_gives_the_same(kind, monkeypatch):
    adapter, make, channels, conditioning = CASES[kind]
    torch.manual_seed(0)
    model = make().eval()
    latents, t = torch.randn(2, channels, 8, 8), torch.tensor([10, 700])
    expected = adapter(model)(latents, t, conditioning)
    for layer in model.modules():
        if isinstance(layer, Attention):
            layer.set_processor(AttnProcessor())

    calls, sdpa = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or sdpa(*a, **k))
    plain = adapter(model, attention=None)(latents, t, conditioning)
    assert processors(model) == {AttnProcessor}
    assert not calls
    ours = adapter(model, attention="sdpa")(latents, t, conditioning)
    assert processors(model) == {AttnProcessor2_0}
    assert calls
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("installed", "gpu", "error", "message"),
    [
        (False, False, ModuleNotFoundError, "needs xformers, which is not installed: .* or use attention='sdpa'"),
        (True, False, RuntimeError, "cannot run here .*torch.cuda.is_available.* or use attention='sdpa'"),
        (True, True, RuntimeError, "cannot run here .*no kernel.* or use attention='sdpa'"),
    ],
    ids=["not installed", "no gpu", "no kernels"],
)
def test_xformers_that_cannot_run(monkeypatch, installed, gpu, error, message):
    class Operations:
        @staticmethod
        def memory_efficient_attention(*args):
            raise NotImplementedError("no kernel for these inputs")

    stand_in = type("xformers", (), {"ops": Operations})
    monkeypatch.setattr(attention_processor, "is_xformers_available", lambda: installed)
    monkeypatch.setattr(attention_processor, "xformers", stand_in, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape, device=None, **options: randn(*shape, **options))
    model = class_unet()
    with pytest.raises(error, match=message):
        ClassUNetDenoiser(model, attention="xformers")
    assert processors(model) == {AttnProcessor2_0}


def test_xformers_is_set_where_it_runs(monkeypatch):
    operations = type("ops", (), {"memory_efficient_attention": staticmethod(lambda *args: None)})
    monkeypatch.setattr(attention_processor, "is_xformers_available", lambda: True)
    monkeypatch.setattr(attention_processor, "xformers", type("xformers", (), {"ops": operations}), raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape, device=None, **options: randn(*shape, **options))
    model = PromptUNetDenoiser(prompt_unet(), attention="xformers").model
    assert processors(model) == {attention_processor.XFormersAttnProcessor}


def test_errors():
    with pytest.raises(ValueError, match="attention must be one of"):
        ClassUNetDenoiser(class_unet(), attention="flash")
    with pytest.raises(TypeError, match="model must be a diffusers model for its attention to be chosen, got Linear"):
        ClassUNetDenoiser(nn.Linear(2, 2), attention="sdpa")
