"""``python -m bench``: the same as ``hardfast bench``."""

from __future__ import annotations

import sys

import tyro

from .command import run

sys.exit(tyro.cli(run, prog="python -m bench"))
