"""The memory of results that ops keep on the CPU: used again, never while somebody holds it, and bounded."""

from __future__ import annotations

import copy
import io
import os
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from hardfast.ops import affine_warp, flow_warp, keep_memory, kl_disagreement

IDENTITY = torch.eye(2, 3)[None]
MEGABYTE = 1 << 20
KEPT = keep_memory(128 * MEGABYTE)

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or torch.__version__ < (2, 11), reason="needs Linux and PyTorch 2.11"
)


@pytest.fixture(autouse=True)
def _nothing_kept_before():
    keep_memory(0)
    keep_memory(KEPT)
    yield
    keep_memory(KEPT)


def warped(value: float, megabytes: int = 4) -> Tensor:
    """An image of one value, that of its pixels inside."""
    image = torch.full((1, 1, 256 * megabytes, 1024), value)
    return affine_warp(image, IDENTITY, padding_mode="border")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_limit_at_first_is_told():
    assert KEPT == 128 * MEGABYTE


def test_memory_is_used_again_when_nobody_holds_it():
    first = warped(1.0)
    address = first.data_ptr()
    view = first[0, 0, 5:7]
    del first
    second = warped(2.0)
    assert second.data_ptr() != address
    assert (view == 1).all()
    del view, second
    assert warped(3.0).data_ptr() != address  # the newest first
    held = warped(4.0)
    assert warped(5.0).data_ptr() == address
    assert (held == 4).all()


def test_writing_to_results_takes_no_page_faults():
    image, flow = torch.rand(4, 3, 256, 256), torch.zeros(4, 2, 256, 256, requires_grad=True)

    def step() -> None:
        flow_warp(image, flow).sum().backward()
        flow.grad = None

    step()
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        step()
    # Output and gradient are 1,280 pages of 4 KiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 10 * 100


def test_what_is_kept_is_bounded_and_given_back():
    keep_memory(16 * MEGABYTE)
    image = torch.ones(1, 1, 256 * 16, 1024)  # once: what PyTorch keeps of inputs is not to be counted

    def result(megabytes: int) -> Tensor:
        return affine_warp(image[:, :, : 256 * megabytes], IDENTITY, padding_mode="border")

    result(1)
    before = resident_bytes()
    for megabytes in (2, 3, 5, 7, 11, 13, 4, 15, 16):
        result(megabytes)
    assert resident_bytes() - before < (16 + 2) * MEGABYTE
    held = [result(8) for _ in range(8)]
    full = resident_bytes()
    assert all((x == 1).all() for x in held)
    del held
    assert keep_memory(0) == 16 * MEGABYTE
    assert resident_bytes() < full - 60 * MEGABYTE


def test_with_nothing_to_keep_results_are_pytorchs():
    def bytes_counted() -> int:
        image = torch.zeros(1, 1, 1024, 1024)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            affine_warp(image, IDENTITY)
        events = profiler.profiler.kineto_results.events()
        return max((event.nbytes() for event in events if event.name() == "[memory]"), default=0)

    assert bytes_counted() < MEGABYTE
    keep_memory(0)
    assert bytes_counted() == 4 * MEGABYTE


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
def test_results_are_tensors_like_others():
    image = torch.rand(2, 3, 512, 512).to(memory_format=torch.channels_last)
    result = affine_warp(image, IDENTITY)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert result.device == image.device
    assert result.untyped_storage().nbytes() == result.nbytes == image.nbytes
    torch.testing.assert_close(copy.deepcopy(result), image)
    file = io.BytesIO()
    torch.save(result, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file), image)
    assert result.share_memory_().is_shared()
    torch.testing.assert_close(result, image)
    result.add_(1)
    torch.testing.assert_close(result, image + 1)
    assert affine_warp(torch.rand(0, 3, 512, 512), IDENTITY).shape == (0, 3, 512, 512)
    for resize in (
        lambda: affine_warp(image, IDENTITY).resize_(10 * image.numel()),
        lambda: affine_warp(image, IDENTITY).untyped_storage().resize_(0),
        lambda: torch.cat([image, image], out=affine_warp(image, IDENTITY)),
    ):
        with pytest.raises(RuntimeError, match="resiz"):
            resize()


def test_gradients_lie_in_it_too():
    logits = [torch.randn(512, 1024, requires_grad=True) for _ in range(2)]
    kl_disagreement(*logits).backward()
    grads = [x.grad.clone() for x in logits]
    keep_memory(0)
    for x in logits:
        x.grad = None
    kl_disagreement(*logits).backward()
    assert all(torch.equal(x.grad, grad) for x, grad in zip(logits, grads, strict=True))


def test_a_result_takes_hardly_more_memory_than_its_bytes():
    for megabytes in (1, 3, 5):
        image = torch.zeros(1, 1, 256 * megabytes, 1024)
        held = [affine_warp(image, IDENTITY)]
        before = resident_bytes()
        held += [affine_warp(image, IDENTITY) for _ in range(20)]
        assert resident_bytes() - before < 20 * megabytes * MEGABYTE * 9 / 8 + 2 * MEGABYTE
        del held
        keep_memory(0)
        keep_memory(KEPT)


def test_limits_at_the_ends():
    keep_memory(3 * MEGABYTE)
    address = warped(1.0, 3).data_ptr()
    assert warped(2.0, 3).data_ptr() == address
    assert keep_memory(2**80) == 3 * MEGABYTE
    assert keep_memory(KEPT) == 2**63 - 1
    torch.ops.hardfast._keep_memory(-5)
    assert keep_memory(KEPT) == 0


def test_threads_never_share_a_result():
    def work(number: int) -> bool:
        held = [warped(number + 0.25 * k, 1 + (number + k) % 4) for k in range(8)]
        return all((x == number + 0.25 * k).all() for k, x in enumerate(held))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))


def test_the_child_of_a_fork_has_memory_of_its_own():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # those of OpenMP are not there after a fork
    warped(1.0)
    held = warped(2.0)
    child = os.fork()
    if child == 0:
        result = warped(3.0)
        os._exit(0 if (held == 2).all() and (result == 3).all() else 1)
    assert (warped(4.0) == 4).all()
    torch.set_num_threads(threads)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (held == 2).all()


@pytest.mark.parametrize("wrong", [-1, 1.5, "1", True, None])
def test_a_limit_that_is_none(wrong):
    with pytest.raises(ValueError, match="max_bytes"):
        keep_memory(wrong)
