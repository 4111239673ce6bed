"""Builds the compiled parts with CMake and ninja. What the package is called and needs stands in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def stop(message: str) -> None:
    raise SystemExit(f"\nhardfast cannot be built: {message}\n")


def torch_package() -> tuple[Path, str]:
    """Folder and version of torch, without importing it: its headers are all that the build needs."""
    try:
        torch = distribution("torch")
    except PackageNotFoundError:
        stop(
            "torch is not installed in this environment: run `pip install torch` first, or install without "
            "`--no-build-isolation`"
        )
    return Path(str(torch.locate_file("torch"))), torch.version


class CMakeBuild(build_ext):
    """One CMake project yields every shared library, beside hardfast/__init__.py."""

    def build_extension(self, ext: Extension) -> None:
        # cmake and ninja of this environment, which need not be activated.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        compiler = os.environ.get("CXX", "c++")
        if shutil.which(compiler.split()[0]) is None:
            stop(f"no C++ compiler named {compiler!r}: install one (Debian, Ubuntu: `apt-get install g++`) or set CXX")
        for tool in ("cmake", "ninja"):
            if shutil.which(tool) is None:
                stop(f"{tool} was not found: run `pip install {tool}`")
        torch_dir, torch_version = torch_package()
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        configure = [
            "cmake",
            "-G=Ninja",
            f"-S={ROOT}",
            f"-B={build}",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DHARDFAST_TORCH_DIR={torch_dir}",
            f"-DHARDFAST_TORCH_HEADERS={torch_version}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={self.pybind11_dir()}",
            f"-DHARDFAST_CUDA={os.environ.get('HARDFAST_CUDA', 'AUTO')}",
        ]
        if architectures := os.environ.get("HARDFAST_CUDA_ARCHITECTURES"):
            configure.append(f"-DHARDFAST_CUDA_ARCHITECTURES={architectures}")
        install = ["cmake", "--install", str(build), "--prefix"]
        commands = [configure, ["cmake", "--build", str(build)], [*install, str(target)]]
        if self.editable_mode or self.inplace:
            # setuptools only carries the extension module itself back to the source tree.
            commands.append([*install, str(ROOT / "hardfast")])
        for command in commands:
            if subprocess.run(command, check=False).returncode != 0:
                stop(f"`{' '.join(command[:2])} ...` failed; its messages stand above")

    @staticmethod
    def pybind11_dir() -> str:
        try:
            import pybind11
        except ImportError:
            stop("pybind11 was not found: run `pip install pybind11`")
        return str(pybind11.get_cmake_dir())


setup(
    packages=[*find_packages(include=["hardfast*"]), "hardfast._triton", "hardfast.bench"],
    package_dir={"hardfast._triton": "kernels/triton", "hardfast.bench": "bench"},
    ext_modules=[Extension("hardfast._native", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
