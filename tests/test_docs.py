"""What the documentation names is there."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
import together
import torch
from diffusion_models import class_unet
from torch import nn

from hardfast.distill.processes import ALONE
from hardfast.recipes import RECIPES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "DESIGN.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`((?:hardfast|kernels|csrc|bench|tests|docs)/[\w./-]+\.\w+)`", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes(page):
    for name in re.findall(r"hardfast (?:train|generate) ((?:hard|config)-[\w-]+)", page.read_text()):
        assert name in RECIPES, name


def python_block(text: str) -> str:
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return block


def test_guided_diffusion():
    (section,) = re.findall(r"^## Guided diffusion$(.*?)^## ", PAGES[0].read_text(), re.MULTILINE | re.DOTALL)
    block = python_block(section).replace("iterations=20", "iterations=1")
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)) for _ in range(2))
    names = {
        "torch": torch,
        "unet": class_unet(num_class_embeds=11),
        "student": student,
        "teacher": teacher,
        "labels": torch.tensor([1]),
        "seeds": [0],
    }
    exec(compile(block, "README.md", "exec"), names)
    assert names["found"].images.shape == (1, 3, 32, 32)


def run_own_loop(processes) -> tuple[float, list[torch.Tensor]]:
    """The block of the page on several processes, which are joined already."""
    block = python_block((ROOT / "docs" / "distributed.md").read_text())
    names = {"joined": lambda: nullcontext(processes)}
    exec(compile(block.replace("distill.joined()", "joined()"), "distributed.md", "exec"), names)
    return names["test_accuracy"], [value.detach() for value in names["student"].parameters()]


def test_a_loop_of_your_own(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    accuracy, weights = run_own_loop(ALONE)
    torch.set_num_threads(threads)
    for theirs, their_weights in together.answers(run_own_loop, 2, tmp_path):
        assert theirs == accuracy
        torch.testing.assert_close(their_weights, weights, rtol=1e-4, atol=1e-5)
