"""Tests in Triton's interpreter: it is chosen when Triton is imported, so they run in a process of their own.

There this module is a plugin of pytest's too, whose fixture judges every launch of every test.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parent


def assert_passes_interpreted(*tests: str | Path) -> None:
    """Runs tests with every op served by interpreted Triton kernels, in a pytest of their own."""
    environment = {name: value for name, value in os.environ.items() if name != "HARDFAST_REQUIRE"}
    environment |= {"HARDFAST_BACKEND": "triton", "TRITON_INTERPRET": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    overflows = "ignore::RuntimeWarning:triton.runtime.interpreter"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "interpreter"]
    command += ["-W", overflows, *map(str, tests)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert "plain PyTorch" not in result.stdout  # the warning of an op that Triton does not serve


@pytest.fixture(autouse=True)
def launches_choose_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a launch of an interpreted kernel outside of ``torch.cuda.device_of``: it goes to the current GPU."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    from triton.runtime.interpreter import InterpretedFunction

    chosen: list[Tensor] = []
    run = InterpretedFunction.run

    @contextmanager
    def device_of(tensor: Tensor) -> Iterator[None]:
        chosen.append(tensor)
        yield
        chosen.pop()

    def guarded_run(self: Any, *args: Any, **kwargs: Any) -> Any:
        assert chosen, f"{self.fn.__name__} is launched on whatever GPU is the current one"
        return run(self, *args, **kwargs)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(InterpretedFunction, "run", guarded_run)
