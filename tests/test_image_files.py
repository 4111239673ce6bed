"""Files decoded on demand: what becomes of their pixels, their order, and of files that cannot be read."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from photo_files import write_image
from PIL import Image
from torch.nn import functional as F

from hardfast.data import ImageFiles, JoinedImages, LabelledImages


def greys(folder, values):
    paths = []
    for value in values:
        paths.append(folder / f"{value}.png")
        write_image(paths[-1], value)
    return paths


def test_images_come_in_the_order_asked_for(tmp_path):
    values = [7 * k for k in range(20)]
    files = ImageFiles(greys(tmp_path, values), torch.arange(20), 5, threads=3)
    index = torch.tensor([13, 2, 2, 19, 0, 7])
    images = files.load(index)
    assert images.shape == (6, 3, 5, 5)
    assert images.dtype == torch.float32
    assert torch.equal((images[:, 0, 2, 2] * 255).round(), index.float() * 7)
    assert files.load(torch.arange(0)).shape == (0, 3, 5, 5)


@pytest.mark.parametrize(("width", "height"), [(37, 24), (24, 37), (9, 31)])
def test_shorter_side_is_resized_and_the_middle_cut_out(tmp_path, width, height):
    pixels = np.random.default_rng(width).integers(80, 176, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen = ImageFiles([tmp_path / "a.png"], torch.zeros(1, dtype=torch.int64), 12, resize=16).load(torch.tensor([0]))
    full = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    size = (16, int(16 * width / height)) if width > height else (int(16 * height / width), 16)
    full = F.interpolate(full, size=size, mode="bicubic", antialias=True, align_corners=False) / 255
    top, left = (round((side - 12) / 2) for side in size)
    torch.testing.assert_close(seen, full[..., top : top + 12, left : left + 12], atol=1.5 / 255, rtol=0)


def test_every_kind_of_file_becomes_rgb(tmp_path):
    grey = Image.fromarray(np.full((8, 8), 51, dtype=np.uint8))
    grey.save(tmp_path / "grey.png")
    grey.convert("RGBA").save(tmp_path / "alpha.png")
    grey.convert("P").save(tmp_path / "palette.png")
    Image.fromarray(np.full((8, 8), 51 * 257, dtype=np.uint16)).save(tmp_path / "sixteen.png")
    grey.convert("RGB").convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    paths = sorted(tmp_path.iterdir())
    images = ImageFiles(paths, torch.zeros(5, dtype=torch.int64), 4).load(torch.arange(5))
    torch.testing.assert_close(images, torch.full((5, 3, 4, 4), 0.2), atol=2 / 255, rtol=0)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    good, cut, text, gone = (tmp_path / name for name in ("good.jpg", "cut.jpg", "text.jpg", "gone.jpg"))
    write_image(good, 3, 64, 64)
    cut.write_bytes(good.read_bytes()[:-200])
    text.write_text("not an image")
    files = ImageFiles([good, cut, text, gone], torch.zeros(4, dtype=torch.int64), 8)
    assert files.load(torch.tensor([0])).shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"cut\.jpg must be a whole image"):
        files.load(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"text\.jpg must be a whole image"):
        files.load(torch.tensor([2]))
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg is gone"):
        files.load(torch.tensor([3]))


@pytest.mark.parametrize(("bits", "compression"), [(8, 1), (4, 2)])
def test_a_bmp_of_run_lengths_is_refused(tmp_path, bits, compression):
    palette, width, height = bytes(4 * 2**bits), 8_000_000, 8
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 2, 2835, 2835, 2**bits, 0)
    start = 14 + len(header) + len(palette)
    file = struct.pack("<2sIHHI", b"BM", start + 2, 0, 0, start) + header + palette + b"\x00\x01"
    (tmp_path / "a.bmp").write_bytes(file)
    with pytest.raises(ValueError, match=r"a\.bmp .* run lengths"):
        ImageFiles([tmp_path / "a.bmp"], torch.zeros(1, dtype=torch.int64), 8).load(torch.tensor([0]))


@pytest.mark.parametrize("index", [torch.tensor([-1]), torch.tensor([0, 2])])
def test_numbers_outside_are_refused(tmp_path, index):
    files = ImageFiles(greys(tmp_path, [1, 2]), torch.tensor([0, 1]), 4)
    with pytest.raises(ValueError, match=r"index must be in \[0, 2\)"):
        files.load(index)
    with pytest.raises(ValueError, match=r"index must be in \[0, 2\)"):
        JoinedImages([files]).load(index)


def test_bad_arguments_are_named(tmp_path):
    paths, labels = greys(tmp_path, [1, 2]), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="labels must have shape"):
        ImageFiles(paths, labels[:1], 4)
    with pytest.raises(TypeError, match="labels must be an int64 tensor"):
        ImageFiles(paths, labels.float(), 4)
    with pytest.raises(ValueError, match="resize must be an integer of at least 4"):
        ImageFiles(paths, labels, 4, resize=3)
    with pytest.raises(TypeError, match="index must be an int64 tensor"):
        ImageFiles(paths, labels, 4).load([0])
    with pytest.raises(ValueError, match="parts must be at least one"):
        JoinedImages([])


def test_joined_sets_are_one_set(tmp_path):
    files = ImageFiles(greys(tmp_path, [10, 20, 30]), torch.tensor([5, 6, 7]), 4)
    memory = LabelledImages(torch.rand(4, 3, 4, 4), torch.tensor([1, 2, 3, 4]))
    joined = JoinedImages([memory, files, memory])
    assert len(joined) == 11
    assert joined.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4]
    everything = torch.cat([memory.images, files.load(torch.arange(3)), memory.images])
    for seed in range(3):
        index = torch.randint(0, 11, (9,), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(joined.load(index), everything[index])
    assert torch.equal(joined.load(torch.tensor([9])), memory.images[2:3])
    assert joined.load(torch.arange(0)).shape == (0, 3, 4, 4)
