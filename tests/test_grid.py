"""Every encoder with every objective takes a step on real crops, or is refused for the reason that the docs state."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mimzoo.recipes import Component
from mimzoo.testing.grid import Outcome, grid_table, try_step

TOOL = Path(__file__).parents[1] / "tools" / "make_grid.py"
SMALL = Component(name="vit-tiny", args={"patch": [8, 8, 8], "width": 24, "depth": 4, "heads": 2})


@pytest.mark.timeout(600)
def test_the_grid_in_the_docs_is_what_the_steps_give_on_real_crops(data_root):
    done = subprocess.run(
        [sys.executable, str(TOOL), "--check", "--data", str(data_root / "hippocampus")],
        capture_output=True,
        text=True,
        timeout=590,
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_a_step_that_is_refused_says_why():
    assert "not divisible" in try_step(SMALL, "mae", torch.randn(2, 1, 20, 16, 16)).refusal


def test_a_step_whose_loss_is_not_finite_is_noticed():
    with pytest.raises(AssertionError, match="vit-tiny with mae: its loss is nan"):
        try_step(SMALL, "mae", torch.full((2, 1, 16, 16, 16), float("nan")))


def test_the_table_numbers_each_reason_once():
    table = grid_table(
        [
            Outcome("a", "mae", "random", "linear"),
            Outcome("a", "simclr"),
            Outcome("b", "mae", refusal="b drops nothing"),
            Outcome("b", "simclr", refusal="b drops nothing"),
        ]
    )
    assert table.splitlines()[2:] == [
        "| `a` | random, linear | yes |",
        "| `b` | no (1) | no (1) |",
        "",
        "1. b drops nothing",
    ]
