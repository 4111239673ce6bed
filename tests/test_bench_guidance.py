"""The published way and the batched one are the same search."""

from __future__ import annotations

import torch

from bench.guidance import batched_way, main, published_way, search_of


def test_both_ways_find_the_same_images():
    search = search_of(3, size=8, steps=3, iterations=2, cutouts=4)
    images = published_way(search)
    torch.testing.assert_close(batched_way(search), images, rtol=1e-4, atol=1e-3)
    unguided = search_of(3, size=8, steps=3, iterations=0, cutouts=4)
    assert ((images - published_way(unguided)).abs().amax((1, 2, 3)) > 0.01).any()
    assert not search.denoiser.model.is_gradient_checkpointing


def test_one_command_prints_the_comparison(capsys):
    threads = torch.get_num_threads()
    try:
        assert main(["--size", "8", "--steps", "3", "--iterations", "1", "--batch", "2", "--rounds", "1"]) == 0
    finally:
        torch.set_num_threads(threads)
    _, _, *rows = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[:3]]
    assert [row[0] for row in cells] == [
        "published, one image at a time",
        "`guide`, `per_step`, batch 2",
        "`guide`, `nested`, batch 2",
    ]
    for row in cells:
        assert all(float(number) > 0 for number in row[1:6])
        assert float(row[6]) < 1e-3
    assert float(cells[0][2]) == float(cells[0][4]) == 1
