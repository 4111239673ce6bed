"""The ``hardfast`` operator library: where ops are defined, compiled back ends are loaded and fallbacks chosen."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

LIBRARY = torch.library.Library("hardfast", "DEF")

#: Which compiled library serves which op, per device type. Anything else runs the reference in plain PyTorch.
#: KL on CUDA has no kernel of its own yet, and says so by its absence here.
COMPILED = {
    "affine_warp": {"cpu": "_ops_cpu", "cuda": "_ops_cuda"},
    "kl_disagreement": {"cpu": "_ops_cpu"},
}
REQUIREMENTS = ("cpu", "cuda", "triton")

#: Name of a shared library -> None where it loaded, else the reason why it did not.
load_errors: dict[str, str | None] = {}


def required_backends() -> set[str]:
    """Back ends that ``HARDFAST_REQUIRE`` (comma separated: cpu, cuda, triton) forbids to fall back from."""
    names = {name.strip() for name in os.environ.get("HARDFAST_REQUIRE", "").split(",") if name.strip()}
    if unknown := names - set(REQUIREMENTS):
        raise ValueError(f"HARDFAST_REQUIRE names {sorted(unknown)}, expected any of {list(REQUIREMENTS)}")
    return names


def load_compiled_libraries() -> None:
    """Loads ``_ops_cpu`` and, under a CUDA build of torch, ``_ops_cuda``; a required one that fails is an error."""
    required = required_backends()
    for name, device in (("_ops_cpu", "cpu"), ("_ops_cuda", "cuda")):
        load_errors[name] = _load(name)
        if load_errors[name] is not None and device in required:
            raise ImportError(f"HARDFAST_REQUIRE={device}, but hardfast.{name} is not usable: {load_errors[name]}")


def _load(name: str) -> str | None:
    path = Path(__file__).resolve().parent.parent / f"{name}.so"
    if name == "_ops_cuda" and torch.version.cuda is None:
        return "this torch is built without CUDA"
    if not path.exists():
        hint = " (built only where nvcc is found; HARDFAST_CUDA=ON makes its absence an error)"
        return f"{path.name} was not built" + (hint if name == "_ops_cuda" else "; reinstall hardfast from source")
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return str(error)
    return None


def register_fallback(op: str, function: Callable[..., Any]) -> None:
    """Serves ``hardfast::<op>`` by plain PyTorch on every device that has no compiled kernel."""
    public_name = op.removeprefix("_").removesuffix("_backward")

    def fallback(*args: Any) -> Any:
        device = next(arg.device.type for arg in args if isinstance(arg, torch.Tensor))
        _report_fallback(public_name, device)
        return function(*args)

    LIBRARY.impl(op, fallback, "CompositeExplicitAutograd")


@cache
def _report_fallback(op: str, device: str) -> None:
    message = f"hardfast.{op} on {device} runs in plain PyTorch: {fallback_reason(op, device)}"
    if device in required_backends() or (device == "cuda" and "triton" in required_backends()):
        raise RuntimeError(f"{message}, and HARDFAST_REQUIRE={os.environ['HARDFAST_REQUIRE']} forbids that")
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def fallback_reason(op: str, device: str) -> str | None:
    """Why ``op`` does not run a compiled kernel on ``device``; None where it does."""
    library = COMPILED[op].get(device)
    if library is None:
        return f"it has no {device} kernel"
    error = load_errors[library]
    return None if error is None else f"{library} is not loaded: {error}"


def backends() -> dict[str, dict[str, str]]:
    """What each op runs on, per device type: the compiled library, or plain PyTorch and the reason."""
    table: dict[str, dict[str, str]] = {}
    for op in COMPILED:
        table[op] = {}
        for device in ("cpu", "cuda"):
            reason = fallback_reason(op, device)
            table[op][device] = COMPILED[op][device] if reason is None else f"plain PyTorch: {reason}"
    return table
