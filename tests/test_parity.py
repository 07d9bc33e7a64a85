"""Parity: what differs between a graph and its model is seen, in outputs, masks and batches."""

import numpy as np
import pytest

from mimzoo.blocks import Parity
from mimzoo.deploy.agreement import clear_disagreements
from mimzoo.errors import ExportError
from mimzoo.parity import check_batches, dice, middle, parity
from mimzoo.sweep import Sweep
from mimzoo.tasks import make_task

LABELS = make_task({1: "Liver"}, None, None)
VOXELS = np.random.default_rng(0).normal(size=(1, 20, 20, 20)).astype(np.float32)


def bright(windows):
    """A model of two labels: bright voxels are liver."""
    return np.concatenate([-windows, windows], axis=1)


def brighter(windows):
    return bright(windows - 0.5)


def compared(ours, theirs):
    return parity("noise", ours, theirs, VOXELS, LABELS, Sweep((16, 16, 16), 0.5))


def test_a_model_agrees_with_itself_and_not_with_another():
    assert compared(bright, bright) == Parity(volume="noise", largest_difference=0, lowest_dice=1, differing=0)
    changed = compared(brighter, bright)
    assert changed.largest_difference == pytest.approx(0.5) and changed.lowest_dice < 0.9 and changed.differing > 1000
    assert not changed.holds()


@pytest.mark.parametrize(
    ("lowest", "differing", "holding"),
    [
        (0.9995, 0, {"float32", "float16", "int8"}),
        (0.9995, 1, {"int8"}),
        (0.997, 0, {"float16", "int8"}),
        (0.992, 0, {"int8"}),
        (0.98, 0, set()),
        (None, 0, {"float32", "float16", "int8"}),
        (None, 1, set()),
    ],
)
def test_masks_and_clear_voxels_must_agree_and_in_int8_the_masks_alone(lowest, differing, holding):
    found = Parity(volume="scan", largest_difference=0.1, lowest_dice=lowest, differing=differing)
    assert {precision for precision in ("float32", "float16", "int8") if found.holds(precision)} == holding


def test_only_clear_margins_count():
    exact = np.zeros((1, 2, 1, 1, 4), np.float32)
    exact[0, 1, 0, 0] = [1.0, -1.0, 0.001, 1.0]
    ours = exact.copy()
    ours[0, 1, 0, 0] = [1.0, -1.0, -0.001, -1.0]
    assert clear_disagreements(ours, exact, LABELS) == 1


def test_the_dice_of_parity_is_that_of_two_masks():
    ours, theirs = np.array([True, True, False]), np.array([True, False, False])
    assert dice(ours, theirs) == pytest.approx(2 / 3) and dice(~ours & ours, ours & ~ours) == 1


def test_windows_of_a_batch_are_answered_as_alone_or_noticed():
    check_batches(bright, VOXELS[:, :10], (16, 16, 16), LABELS)
    for wrong in (lambda windows: bright(windows[::-1]), lambda windows: bright(windows[:1])):
        with pytest.raises(ExportError, match="answers for 2 windows otherwise than for each of them alone"):
            check_batches(wrong, VOXELS, (16, 16, 16), LABELS)


def test_the_middle_is_at_most_two_windows_wide():
    voxels = np.arange(60, dtype=np.float32).reshape(1, 10, 3, 2)
    assert np.array_equal(middle(voxels, (2, 4, 1)), voxels[:, 3:7])
