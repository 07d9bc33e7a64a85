"""Masking strategies: the promised share, the promised shape, and one sentence for what cannot be."""

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mimzoo.errors import ShapeError
from mimzoo.models import build_masking
from mimzoo.recipes import Component

NAMES = ("random", "block", "uniform", "slab", "tube", "foreground", "mask-in-mask")
UNIT = (4, 4, 4)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(name, units, ratio, seed=0, batch=3, volume=None, **args):
    """A mask of a crop of so many units of 4 x 4 x 4 voxels."""
    if volume is None:
        volume = torch.randn(batch, 1, *(4 * n for n in units), generator=generator(99))
    masking = build_masking(Component(name=name, args={"ratio": ratio, "unit": list(UNIT), **args}))
    return masking(volume, generator(seed), (2, 2, 2))


grids = st.tuples(*[st.integers(2, 6)] * 3)


@pytest.mark.parametrize("name", ["random", "block", "foreground"])
@settings(max_examples=40, deadline=None)
@given(units=grids, ratio=st.floats(0.05, 0.95), seed=st.integers(0, 1000))
def test_the_rounded_share_of_every_sample_is_hidden_or_the_reason_said(name, units, ratio, seed):
    wanted = round(ratio * prod(units))
    if wanted in (0, prod(units)):
        with pytest.raises(ShapeError, match=f"hides {'none' if wanted == 0 else 'all'} of the {prod(units)} units"):
            draw(name, units, ratio, seed)
    else:
        assert draw(name, units, ratio, seed).flatten(1).sum(1).tolist() == [wanted] * 3


@settings(max_examples=40, deadline=None)
@given(units=grids, count=st.sampled_from([2, 3, 4, 6, 8]), seed=st.integers(0, 1000))
def test_uniform_leaves_one_unit_visible_in_every_cell(units, count, seed):
    try:
        mask = draw("uniform", units, 1 - 1 / count, seed)
    except ShapeError as error:
        assert "no cell of" in str(error)
        cells = [(a, b, c) for a in range(1, 9) for b in range(1, 9) for c in range(1, 9) if a * b * c == count]
        assert not any(all(u % n == 0 for u, n in zip(units, cell, strict=True)) for cell in cells)
        return
    assert mask.flatten(1).sum(1).tolist() == [prod(units) - prod(units) // count] * 3
    found = [(a, b, c) for a in range(1, 9) for b in range(1, 9) for c in range(1, 9) if a * b * c == count]
    fitting = [cell for cell in found if all(u % n == 0 for u, n in zip(units, cell, strict=True))]
    assert any((pooled(~mask, cell) == 1).all() for cell in fitting)


def pooled(visible, cell):
    """How many units are visible in each cell."""
    return torch.nn.functional.avg_pool3d(visible.float()[:, None], cell, cell) * prod(cell)


@pytest.mark.parametrize("name", ["slab", "tube"])
@pytest.mark.parametrize("axis", ["x", "y", "z", None])
def test_slabs_and_tubes_are_whole(name, axis):
    for seed in range(8):
        mask = draw(name, (4, 6, 8), 0.5, seed, axis=axis)
        assert len(set(mask.flatten(1).sum(1).tolist())) == 1
        axes = [1 + "xyz".index(axis)] if axis else [1, 2, 3]
        assert any(is_slab(mask, a) if name == "slab" else is_tube(mask, a) for a in axes)


def is_tube(mask, axis):
    return bool((mask == mask.select(axis, 0).unsqueeze(axis)).all())


def is_slab(mask, axis):
    """Planes across the axis are all or nothing, and the hidden ones are neighbours."""
    planes = mask.movedim(axis, 1).flatten(2)
    whole = (planes.all(2) | ~planes.any(2)).all()
    edges = planes[:, :, 0].int().diff(dim=1, prepend=torch.zeros(len(mask), 1), append=torch.zeros(len(mask), 1))
    return bool(whole) and bool((edges.abs().sum(1) == 2).all())


def test_blocks_hang_together_more_than_single_units():
    def parts(name):
        masks = torch.cat([draw(name, (8, 8, 8), 0.3, seed) for seed in range(6)])
        return sum(ndimage.label(mask.numpy())[1] for mask in masks)

    assert parts("block") < parts("random") / 3


@pytest.mark.parametrize("seed", range(4))
def test_mask_in_mask_hides_whole_coarse_blocks_and_single_units_besides(seed):
    mask = draw("mask-in-mask", (4, 4, 8), 0.75, seed, coarse_ratio=0.5)
    assert mask.flatten(1).sum(1).tolist() == [96] * 3
    hidden = pooled(mask, (2, 2, 2))
    assert ((hidden == 8).flatten(1).sum(1) >= 8).all()
    assert ((hidden > 0) & (hidden < 8)).any()


@pytest.mark.parametrize(("name", "ratio"), [("random", 0.5), ("uniform", 0.75), ("tube", 0.5), ("mask-in-mask", 0.75)])
def test_every_unit_is_hidden_equally_often(name, ratio):
    masks = torch.cat([draw(name, (4, 4, 4), ratio, seed, batch=8) for seed in range(150)]).float().mean(0)
    assert (masks - ratio).abs().max() < 0.08


def test_content_is_hidden_more_often_than_air_as_strength_rises():
    volume = torch.zeros(4, 1, 16, 16, 16)
    volume[:, :, :8] = torch.randn(4, 1, 8, 16, 16, generator=generator(5))

    def share(strength):
        masks = torch.cat([draw("foreground", (4, 4, 4), 0.5, s, volume=volume, strength=strength) for s in range(20)])
        return masks[:, :2].float().mean().item()

    assert abs(share(0.0) - 0.5) < 0.05
    assert 0.85 < share(0.5) < share(3.0) == pytest.approx(1.0, abs=0.02)


def test_a_volume_without_contrast_hides_all_units_equally_often():
    volume = torch.zeros(8, 1, 16, 16, 16)
    masks = torch.cat([draw("foreground", (4, 4, 4), 0.5, seed, volume=volume) for seed in range(60)])
    assert (masks.float().mean(0) - 0.5).abs().max() < 0.1


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_generator_alone_decides(name, seed):
    state = torch.get_rng_state()
    one, two = (draw(name, (4, 4, 4), 0.75, seed) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(state, torch.get_rng_state())
    assert any(not torch.equal(one, draw(name, (4, 4, 4), 0.75, seed + 1 + n)) for n in range(8))


@pytest.mark.parametrize(
    ("name", "args", "sentence"),
    [
        ("uniform", {"ratio": 0.7}, "its ratio is 1 - 1 / n, not 0.7; use 0.6667 or 0.75"),
        ("uniform", {"ratio": 0.8}, "no cell of 5 units .* divides a crop of 4 x 4 x 4 units"),
        ("slab", {"ratio": 0.1}, "hides none of the 4 planes of units along"),
        ("tube", {"ratio": 0.98}, "hides all of the 16 tubes along"),
        (
            "mask-in-mask",
            {"ratio": 0.5, "coarse_ratio": 0.75},
            "hides 48 units, but ratio 0.5 only 32",
        ),
        (
            "mask-in-mask",
            {"ratio": 0.5, "coarse": 3},
            "4 x 4 x 4 is not divisible by the coarse unit",
        ),
        ("random", {"ratio": 0.5, "unit": [3, 4, 4]}, "the mask unit 3 x 4 x 4 is not divisible by the smallest unit"),
        ("block", {"ratio": 0.5, "unit": [1, 1, 1]}, "the mask unit 1 x 1 x 1 is not divisible by the smallest unit"),
        (
            "block",
            {"ratio": 0.5, "unit": [6, 4, 4]},
            "16 x 16 x 16 is not divisible by the mask unit 6 x 4 x 4",
        ),
        ("tube", {"axis": "w"}, "argument 'axis': input should be 'x', 'y' or 'z', got 'w'"),
        ("foreground", {"strenght": 1}, "unknown argument 'strenght'; did you mean 'strength'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(name, args, sentence):
    with pytest.raises(ShapeError, match=sentence):
        masking = build_masking(Component(name=name, args={"unit": list(UNIT), **args}))
        masking(torch.zeros(2, 1, 16, 16, 16), generator(), (2, 2, 2))
