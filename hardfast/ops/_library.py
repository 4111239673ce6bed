"""The ``hardfast`` operator library: where ops are defined and the back end of each op and device is chosen."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

LIBRARY = torch.library.Library("hardfast", "DEF")

#: The back ends of every op, per device type, best first: a compiled library, or Triton. The first that is usable
#: serves; where none is, the reference in plain PyTorch does, with one warning that says why.
#: On CUDA the compiled warps come first because they reduce parameter gradients in one pass. The row-wise and
#: elementwise ops only stream memory, which Triton does as well, so they have no CUDA C++.
WARP_BACKENDS: dict[str, tuple[str, ...]] = {"cpu": ("_ops_cpu",), "cuda": ("_ops_cuda", "triton")}
ROW_BACKENDS: dict[str, tuple[str, ...]] = {"cpu": ("_ops_cpu",), "cuda": ("triton",)}
BACKENDS: dict[str, dict[str, tuple[str, ...]]] = {
    "affine_warp": WARP_BACKENDS,
    "projective_warp": WARP_BACKENDS,
    "flow_warp": WARP_BACKENDS,
    "thin_plate_warp": WARP_BACKENDS,
    "kl_disagreement": ROW_BACKENDS,
    "confidence_disagreement": ROW_BACKENDS,
    "distillation_loss": ROW_BACKENDS,
    "guided_step": ROW_BACKENDS,
}
#: Ops made of PyTorch's own and of another op's kernels: they run on whatever that one does.
COMPOSED: dict[str, str] = {"linear_kl_disagreement": "kl_disagreement"}
#: Ops that also exist as ``_<op>_with_gradients``, forward and backward in one.
WITH_GRADIENTS = ("kl_disagreement",)
REQUIREMENTS = ("cpu", "cuda", "triton")
OVERRIDES = ("", "triton", "reference")

#: Name of a shared library -> None where it loaded, else the reason why it did not.
load_errors: dict[str, str | None] = {}


def required_backends() -> set[str]:
    """Back ends that ``HARDFAST_REQUIRE`` (comma separated: cpu, cuda, triton) forbids to fall back from."""
    names = {name.strip() for name in os.environ.get("HARDFAST_REQUIRE", "").split(",") if name.strip()}
    if unknown := names - set(REQUIREMENTS):
        raise ValueError(f"HARDFAST_REQUIRE names {sorted(unknown)}, expected any of {list(REQUIREMENTS)}")
    return names


@cache
def _override() -> str:
    """``HARDFAST_BACKEND``: ``triton`` or ``reference`` serves every op by that alone, on every device.

    On the CPU, Triton needs its interpreter (``TRITON_INTERPRET=1``), which is for tests: it is far slower.
    """
    name = os.environ.get("HARDFAST_BACKEND", "")
    if name not in OVERRIDES:
        raise ValueError(f"HARDFAST_BACKEND must be one of {list(OVERRIDES)}, got {name!r}")
    return name


def load_backends() -> None:
    """Loads the compiled libraries, registers Triton where it is the choice; a required one that fails is an error."""
    required = required_backends()
    for name, device in (("_ops_cpu", "cpu"), ("_ops_cuda", "cuda")):
        load_errors[name] = _load(name)
        if load_errors[name] is not None and device in required:
            raise ImportError(f"HARDFAST_REQUIRE={device}, but hardfast.{name} is not usable: {load_errors[name]}")
    for device, key in (("cpu", "CPU"), ("cuda", "CUDA")):
        if "triton" in required and device == "cuda" and (reason := _unusable("triton", device)):
            raise ImportError(f"HARDFAST_REQUIRE=triton, but Triton is not usable: {reason}")
        for op in BACKENDS:
            if _choice(op, device)[0] == "triton":
                LIBRARY.impl(op, _triton_launcher(op, "forward"), key)
                LIBRARY.impl(f"_{op}_backward", _triton_launcher(op, "backward"), key)
                if op in WITH_GRADIENTS:
                    LIBRARY.impl(f"_{op}_with_gradients", _triton_launcher(op, "with_gradients"), key)
        if any(_choice(op, device)[0] == "triton" for op in WITH_GRADIENTS):
            LIBRARY.impl("_scale_unless_one", _triton_launcher("scale_unless_one", "forward"), key)


def _load(name: str) -> str | None:
    folder = os.environ.get("HARDFAST_LIBRARY_DIR")  # for another build of them, such as that with sanitizers
    path = (Path(folder) if folder else Path(__file__).resolve().parent.parent) / f"{name}.so"
    if _override():
        return f"HARDFAST_BACKEND={_override()}"
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


def _triton_launcher(op: str, direction: str) -> Callable[..., Any]:
    """A function of ``kernels/triton/<op>.py``, imported (and Triton with it) at the first call.

    Args:
        direction: ``forward``, ``backward`` or ``with_gradients``.
    """

    def launch(*args: Any) -> Any:
        return getattr(importlib.import_module(f"hardfast._triton.{op}"), direction)(*args)

    return launch


def _unusable(backend: str, device: str) -> str | None:
    """Why a back end cannot serve a device; None where it can."""
    if backend != "triton":
        error = load_errors[backend]
        return None if error is None else f"{backend} is not loaded: {error}"
    if _override() == "reference":
        return "HARDFAST_BACKEND=reference"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        return "Triton runs on the CPU only in its interpreter (TRITON_INTERPRET=1)"
    if device == "cuda" and torch.version.cuda is None:
        return "this torch is built without CUDA"
    return None


def _choice(op: str, device: str) -> tuple[str | None, list[str]]:
    """The back end that serves ``op`` on ``device`` (None: plain PyTorch), and why those before it do not."""
    candidates = BACKENDS[op].get(device, ())
    if _override() == "triton":
        candidates = tuple(name for name in BACKENDS[op]["cuda"] if name == "triton")
    reasons: list[str] = []
    for name in candidates:
        reason = _unusable(name, device)
        if reason is None:
            return name, reasons
        reasons.append(reason)
    return None, reasons or [f"it has no {device} kernel"]


@cache
def has_kernel(op: str, device: str) -> bool:
    """Whether something other than plain PyTorch serves an op on this type of device."""
    return _choice(op, device)[0] is not None


def register_fallback(op: str, function: Callable[..., Any]) -> None:
    """Serves ``hardfast::<op>`` by plain PyTorch on every device that has no other back end."""
    public_name = op.removeprefix("_").removesuffix("_backward")

    def fallback(*args: Any) -> Any:
        device = next(arg.device.type for arg in args if isinstance(arg, torch.Tensor))
        _report_fallback(public_name, device)
        return function(*args)

    LIBRARY.impl(op, fallback, "CompositeExplicitAutograd")


@cache
def _report_fallback(op: str, device: str) -> None:
    message = f"hardfast.{op} on {device} runs in plain PyTorch: {'; '.join(_choice(op, device)[1])}"
    if device in required_backends() or (device == "cuda" and "triton" in required_backends()):
        raise RuntimeError(f"{message}, and HARDFAST_REQUIRE={os.environ['HARDFAST_REQUIRE']} forbids that")
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def backends() -> dict[str, dict[str, str]]:
    """What each op runs on, per device type: a compiled library, Triton, or plain PyTorch and the reasons."""
    table: dict[str, dict[str, str]] = {}
    for op in BACKENDS:
        table[op] = {}
        for device in ("cpu", "cuda"):
            name, reasons = _choice(op, device)
            table[op][device] = (name or "plain PyTorch") + (f" ({'; '.join(reasons)})" if reasons else "")
    for op, basis in COMPOSED.items():
        table[op] = {device: f"{basis} on {choice}" for device, choice in table[basis].items()}
    return table
