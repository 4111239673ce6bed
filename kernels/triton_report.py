"""Compiles the Triton kernels for GPUs that need not be there: what the interpreter accepts, the compiler may not.

``python kernels/triton_report.py`` calls every op on small CPU tensors with Triton's launches replaced by compilations
for each architecture, so that signatures and compile-time arguments are those of real calls. It prints registers,
spilled bytes and shared memory, and fails where a kernel does not compile.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# The table of back ends admits Triton on CPU tensors only with the interpreter. Triton itself, imported at the first
# launch, must not see that.
os.environ.update(HARDFAST_BACKEND="triton", TRITON_INTERPRET="1")
sys.path[0] = str(Path(__file__).resolve().parent.parent)  # not this folder, whose "triton" would be taken for Triton
import torch

from hardfast import ops

del os.environ["TRITON_INTERPRET"]
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class CompileOnly:
    """Stands in for Triton's driver: names an architecture, and has no device."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0


def resources(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    fields = (word.split(":") for word in report.split() if word.count(":") == 1)
    return {name: int(value) for name, value in fields if value.isdigit()}


# Together they launch every kernel of the warps.
QUICK = (
    "affine_warp bfloat16 bilinear fill",
    "projective_warp float32 bilinear zeros",
    "flow_warp float32 bilinear zeros cubic",
    "thin_plate_warp float32 bilinear zeros",
)
Case = tuple[str, Callable[..., Any], tuple[torch.Tensor, ...], dict[str, Any]]


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def warp_cases() -> Iterator[Case]:
    maps = {
        "affine_warp": (torch.randn(2, 2, 3),),
        "flow_warp": (torch.randn(2, 2, 5, 6),),
        "projective_warp": (torch.randn(2, 3, 3),),
        "thin_plate_warp": (torch.rand(2, 17, 2), torch.rand(2, 17, 2)),
    }
    everything = {"padding_mode": "fill", "fill": torch.rand(3), "color": torch.rand(3, 4), "antialias": 2}
    variants: list[tuple[torch.dtype, dict[str, Any]]] = [
        (torch.float32, {}),
        (torch.float16, {"mode": "nearest", "padding_mode": "border"}),
        (torch.float32, {"padding_mode": "reflection", "antialias": (1, 3)}),
        (torch.bfloat16, everything),
        (torch.float32, {"mode": "bicubic", **everything}),
        (torch.float64, {"mode": "bicubic", "padding_mode": "reflection", "align_corners": True}),
    ]
    for dtype, options in variants:
        for name, tensors in maps.items():
            image = torch.randn(2, 3, 40, 48).to(dtype)
            inputs = tuple(t.double() if dtype == torch.float64 else t for t in tensors)
            rules = f"{options.get('mode', 'bilinear')} {options.get('padding_mode', 'zeros')}"
            label = f"{name} {short(dtype)} {rules}"
            yield label, getattr(ops, name), (image, *inputs), options
            if name == "flow_warp":
                yield f"{label} cubic", ops.flow_warp, (image, *inputs), {**options, "interpolation": "cubic_bspline"}
    yield "flow_warp dense", ops.flow_warp, (torch.randn(2, 3, 40, 48), torch.randn(1, 2, 40, 48)), {}
    bytes_ = torch.zeros(2, 3, 40, 48, dtype=torch.uint8)
    yield "affine_warp uint8", ops.affine_warp, (bytes_, torch.eye(2, 3)[None]), {}


def other_cases() -> Iterator[Case]:
    labels = torch.zeros(6, dtype=torch.int64)
    losses: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        *((ops.kl_disagreement, {"divergence": name}) for name in ("forward", "reverse", "jensen_shannon")),
        *((ops.confidence_disagreement, {"labels": labels, "form": name}) for name in ("probability", "log", "logit")),
        (ops.distillation_loss, {"labels": labels, "label_smoothing": 0.1}),
    ]
    for dtype in (torch.float32, torch.bfloat16):
        for classes in (100, 50_000):
            for loss, options in losses:
                logits = (torch.randn(6, classes).to(dtype), torch.randn(6, classes).to(dtype))
                yield f"{loss.__name__} {short(dtype)} {classes}", loss, logits, options
        latents = tuple(torch.randn(2, 4, 32, 32).to(dtype) for _ in range(3))
        schedule = {"alpha_bar": torch.full((2,), 0.3), "alpha_bar_next": torch.full((2,), 0.6)}
        yield (
            f"guided_step {short(dtype)}",
            ops.guided_step,
            latents,
            {**schedule, "eta": 0.5, "noise": latents[0].clone()},
        )


def compile_case(case: Case) -> None:
    """One call and its backward pass. No kernel runs: the results mean nothing."""
    _, op, tensors, options = case
    learns = tensors[0].is_floating_point()

    def leaf(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.detach().requires_grad_(learns and value.is_floating_point())

    inputs = [leaf(t) for t in tensors]
    options = {name: leaf(value) for name, value in options.items()}
    outputs = op(*inputs, **options)
    for output in outputs if isinstance(outputs, tuple) else (outputs,):
        if output.requires_grad:
            output.float().sum().backward(retain_graph=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 120], help="compute capabilities, 90 for 9.0")
    parser.add_argument("--quick", action="store_true", help="a warp kernel of each kind alone, for 9.0")
    parser.add_argument("--match", default="", help="only the calls whose description contains this")
    args = parser.parse_args()
    cases = [case for case in (*warp_cases(), *other_cases()) if args.match in case[0]]
    if args.quick:
        args.arch = [90]
        cases = [case for case in cases if case[0] in QUICK]
    compile_kernel = JITFunction.run
    seen: set[tuple[str, int]] = set()
    spilling = 0
    current = ""

    def compile_and_report(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        nonlocal spilling
        start = time.perf_counter()
        kernel = compile_kernel(self, *args, grid=grid, warmup=True, **kwargs)
        arch = triton.runtime.driver.active.get_current_target().arch
        if (kernel.hash, arch) not in seen:
            seen.add((kernel.hash, arch))
            use = resources(kernel.asm["cubin"])
            spilling += use["STACK"] > 0
            seconds = time.perf_counter() - start
            print(
                f"sm_{arch} {self.fn.__name__:24} {use['REG']:4} registers {use['STACK']:5} bytes of stack "
                f"{kernel.metadata.shared:6} of shared memory {seconds:5.1f} s  {current}",
                flush=True,
            )
        return kernel

    JITFunction.run = compile_and_report
    for arch in args.arch:
        triton.runtime.driver.set_active(CompileOnly(arch))
        for case in cases:
            current = case[0]
            compile_case(case)
    print(f"{len(seen)} kernels compiled, {spilling} with a stack")
    return 0


if __name__ == "__main__":
    sys.exit(main())
