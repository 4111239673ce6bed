"""What the documentation names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
