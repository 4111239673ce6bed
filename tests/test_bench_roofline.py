"""The least work of each op, against values computed by hand."""

from __future__ import annotations

import pytest

from bench import roofline
from bench.case import OURS
from bench.cases import all_cases
from bench.roofline import Rates, Work, least_seconds


def test_the_slower_of_moving_and_computing_decides():
    rates = Rates(bytes=10.0, operations=100.0)
    assert least_seconds(Work(50, 100), rates) == 5.0
    assert least_seconds(Work(50, 1000), rates) == 10.0


def test_warps():
    """Two images of 3 x 4 x 5 pixels in float32, six numbers a map: 480 bytes of image, 48 of map, 40 positions."""
    numbers = {"image_numel": 120, "channels": 3, "element": 4, "map_bytes": 48, "position": 4}
    forward = roofline.warp(**numbers, pass_name="forward")
    assert forward == Work(480 + 480 + 48, 40 * (4 + 6 + 21))
    parameters = roofline.warp(**numbers, pass_name="parameters")
    assert parameters == Work(4 * 480 + 3 * 48, 40 * 31 + 40 * (8 + 6 + 36))
    both = roofline.warp(**numbers, pass_name="all")
    assert both == Work(5 * 480 + 3 * 48, parameters.operations + 40 * 24)
    half = roofline.warp(**{**numbers, "element": 2}, pass_name="forward")
    assert half.bytes == 240 + 240 + 48


def test_other_interpolations():
    """16 taps of 3 channels in place of 4: 32 operations for their weights, 35 a channel for their sum."""
    numbers = {"image_numel": 120, "channels": 3, "element": 4, "map_bytes": 48, "position": 4}
    kinds = roofline.INTERPOLATIONS
    nearest = roofline.warp(**numbers, pass_name="all", interpolation=kinds["nearest"])
    assert nearest.operations == 40 * 4 + 40 * 8 + 40 * 3
    bicubic = roofline.warp(**numbers, pass_name="forward", interpolation=kinds["bicubic"])
    assert bicubic == Work(480 + 480 + 48, 40 * (4 + 32 + 105))
    assert roofline.warp(**numbers, pass_name="all", interpolation=kinds["bicubic"]).bytes == 5 * 480 + 3 * 48


def test_positions():
    assert roofline.positions("affine_warp") == 4
    assert roofline.positions("projective_warp") == 8
    assert (roofline.positions("flow_warp"), roofline.positions("flow_warp", coarse=True)) == (2, 8)
    assert roofline.positions("thin_plate_warp", 16) == 180


def test_losses():
    """8 x 10 logits in float32 are 320 bytes."""
    assert roofline.rows(80, 4, 2) == Work(4 * 320, 80 * (10 + 3 + 8))
    assert roofline.rows(80, 4, 1) == Work(3 * 320, 80 * (10 + 3 + 4))
    assert roofline.rows(80, 2, 0).bytes == 2 * 160


def test_linear_heads():
    """4 rows, 3 wide, 10 classes: features of 12, weights of 30 numbers, products of 240 operations."""
    features = roofline.linear_rows(4, 3, 10, 4, trained=0, followed=2)
    assert features.bytes == 4 * (2 * (12 + 30) + 2 * 12)
    assert features.operations == 240 * 4 + 40 * 21
    both = roofline.linear_rows(4, 3, 10, 4, trained=2, followed=2)
    assert both.bytes == 4 * (4 * 12 + 4 * 30)
    assert both.operations == 240 * 6 + 40 * 21


@pytest.mark.parametrize(("pass_name", "tensors"), [("forward", 5), ("all", 10)])
def test_guided_step(pass_name, tensors):
    assert roofline.guided_step(100, 4, pass_name).bytes == tensors * 400


def test_cases_count_their_own_sizes():
    work = {case.name: case.work for case in all_cases() if OURS in case.implementations}
    image = 16 * 3 * 224 * 224
    assert work["affine_warp 16x3x224x224 forward"].bytes == 2 * 4 * image + 4 * 96
    assert work["affine_warp 16x3x224x224 forward bfloat16"].bytes == 2 * 2 * image + 2 * 96
    dense = 16 * 2 * 128 * 128 * 4
    assert work["flow_warp 16x3x128x128 dense flow parameters"].bytes == 4 * 16 * 3 * 128 * 128 * 4 + 3 * dense
    assert work["kl_disagreement 4096x1000 all"].bytes == 4 * 4096 * 1000 * 4
    assert work["distillation_loss 4096x1000 parameters"].bytes == 3 * 4096 * 1000 * 4
