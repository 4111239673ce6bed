"""The tutorial of the documentation runs as it stands, and does what it says."""

import re
from pathlib import Path

import torch

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"


def test_the_blocks_run_one_after_the_other(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    names: dict = {}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for number, block in enumerate(blocks):
            exec(compile(block, f"{TUTORIAL.name}, block {number}", "exec"), names)
    finally:
        torch.set_num_threads(threads)
    # The learned shifts grow, and the student reads digits: the printed lines mean something.
    before, after = names["before"], names["augmentor"].describe((28, 28))
    assert after["shift_x_px"].std > 1.3 * before["shift_x_px"].std
    assert names["rotation"].describe((28, 28))["rotation_deg"].std > 5.0
    printed = capsys.readouterr().out.splitlines()
    assert float(printed[1]) > 0.8
    assert len(printed) == 4
