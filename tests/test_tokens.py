"""Patches, masks and gathers: each undone or recomputed by plain loops."""

from itertools import product
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimzoo.errors import ShapeError
from mimzoo.tokens import (
    check_volume,
    divide,
    expand_mask,
    gather_tokens,
    hidden_index,
    hide,
    patchify,
    resize_grid,
    unpatchify,
    visible_index,
)
from mimzoo.transformer import StochasticDepth, sincos_positions

sizes = st.tuples(*[st.integers(1, 4)] * 3)


@st.composite
def masks(draw):
    """A mask (B, X, Y, Z) that hides the same number of cells in each sample."""
    batch, grid = draw(st.integers(1, 3)), draw(sizes)
    count, seed = draw(st.integers(0, prod(grid))), draw(st.integers(0, 99))
    order = torch.rand(batch, prod(grid), generator=torch.Generator().manual_seed(seed)).argsort(1)
    return (order < count).reshape(batch, *grid)


@given(sizes, sizes, st.integers(1, 2), st.integers(1, 3))
@settings(deadline=None)
def test_patchify_is_undone_by_unpatchify(patch, grid, batch, channels):
    size = [p * g for p, g in zip(patch, grid, strict=True)]
    volume = torch.randn(batch, channels, *size)
    patches = patchify(volume, patch)
    assert patches.shape == (batch, prod(grid), channels * prod(patch))
    assert torch.equal(unpatchify(patches, patch, size), volume)


@given(sizes, sizes)
@settings(deadline=None)
def test_a_patch_holds_its_own_voxels_in_raster_order(patch, grid):
    size = [p * g for p, g in zip(patch, grid, strict=True)]
    volume = torch.randn(1, 2, *size)
    patches = patchify(volume, patch)
    for number, (i, j, k) in enumerate(product(*map(range, grid))):
        (x, y, z), (px, py, pz) = (i * patch[0], j * patch[1], k * patch[2]), patch
        assert torch.equal(patches[0, number], volume[0, :, x : x + px, y : y + py, z : z + pz].flatten())


@given(masks(), sizes)
@settings(deadline=None)
def test_an_expanded_mask_repeats_each_unit(mask, factors):
    grid = [n * f for n, f in zip(mask.shape[1:], factors, strict=True)]
    wide = expand_mask(mask, grid)
    for x, y, z in product(*map(range, grid)):
        fx, fy, fz = factors
        assert torch.equal(wide[:, x, y, z], mask[:, x // fx, y // fy, z // fz])


@given(masks())
@settings(deadline=None)
def test_visible_and_hidden_cells_together_are_all_cells_once(mask):
    flat = mask.flatten(1)
    visible, hidden = visible_index(mask), hidden_index(mask)
    assert torch.equal(flat.gather(1, hidden), torch.ones_like(hidden, dtype=torch.bool))
    both = torch.cat([visible, hidden], 1).sort(1).values
    assert torch.equal(both, torch.arange(flat.shape[1]).expand_as(both))
    for index in (visible, hidden):
        assert torch.equal(index, index.sort(1).values)


@given(masks())
@settings(deadline=None)
def test_gathered_tokens_are_those_at_the_indices(mask):
    batch, count = mask.shape[0], mask[0].numel()
    values, index = torch.randn(batch, count, 3), visible_index(mask)
    for b in range(batch):
        assert torch.equal(gather_tokens(values, index)[b], values[b][~mask[b].flatten()])
        assert torch.equal(gather_tokens(values[:1], index)[b], values[0][~mask[b].flatten()])


def test_hidden_tokens_become_the_mask_token_even_where_they_were_not_numbers():
    mask = torch.tensor([True, False]).reshape(1, 1, 1, 2)
    values = torch.tensor([[[float("nan")], [2.0]]])
    assert hide(values, mask, torch.tensor([7.0])).tolist() == [[[7.0], [2.0]]]


def test_samples_that_hide_different_numbers_are_refused():
    mask = torch.zeros(2, 1, 1, 4, dtype=torch.bool)
    mask[0, 0, 0, :2], mask[1, 0, 0, :3] = True, True
    with pytest.raises(ShapeError, match=r"same number of cells, got \[2, 3\]"):
        hidden_index(mask)


def test_what_does_not_divide_is_refused_with_the_nearest_that_does():
    with pytest.raises(
        ShapeError, match=r"the crop 100 x 96 x 50 .* the patch 16 x 16 x 16; the nearest is 96 x 96 x 48"
    ):
        divide((100, 96, 50), (16, 16, 16), "the crop", "the patch")
    with pytest.raises(ShapeError, match="the nearest is 16 x 16 x 16"):
        divide((4, 4, 4), (16, 16, 16), "the crop", "the patch")


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [((8, 8, 8), r"the axes \(B, C, X, Y, Z\)"), ((1, 3, 8, 8, 8), "3 channels"), ((1, 2, 8, 8, 6), "8 x 8 x 8")],
)
def test_a_volume_of_the_wrong_kind_is_refused(shape, sentence):
    with pytest.raises(ShapeError, match=sentence):
        check_volume(torch.zeros(shape), 2, (4, 4, 4))


def test_patches_and_masks_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="3 patches of 8 values do not make up a volume 4 x 4 x 4"):
        unpatchify(torch.zeros(1, 3, 8), (2, 2, 2), (4, 4, 4))
    with pytest.raises(ShapeError, match="the grid 3 x 4 x 4 is not divisible by the units of the mask: 2 x 2 x 2"):
        expand_mask(torch.zeros(1, 2, 2, 2, dtype=torch.bool), (3, 4, 4))
    with pytest.raises(ShapeError, match="a mask has the axes"):
        expand_mask(torch.zeros(2, 2, 2, dtype=torch.bool), (4, 4, 4))


def test_a_grid_is_resized_linearly():
    ramp = torch.arange(4.0)[:, None, None].expand(4, 2, 2)[None, None]
    resized = resize_grid(ramp, (8, 2, 2))
    assert resized.shape == (1, 1, 8, 2, 2)
    assert torch.allclose(resized[0, 0, 1:-1, 0, 0], torch.arange(1, 7) / 2 - 0.25)


@given(sizes, st.integers(6, 40))
@settings(deadline=None)
def test_fixed_positions_tell_every_cell_apart_and_do_not_depend_on_the_grid_around(grid, width):
    positions = sincos_positions(grid, width)[0]
    assert positions.shape == (prod(grid), width)
    assert positions.dtype == torch.float32
    assert len(torch.unique(positions, dim=0)) == prod(grid)
    larger = sincos_positions((5, 5, 5), width)[0].reshape(5, 5, 5, width)
    x, y, z = grid
    assert torch.equal(larger[:x, :y, :z].reshape(-1, width), positions)


def test_stochastic_depth_drops_whole_samples_keeps_the_mean_and_rests_in_evaluation():
    torch.manual_seed(0)
    layer, x = StochasticDepth(0.25), torch.ones(4000, 2, 3)
    dropped = layer(x)
    values = dropped.flatten(1)
    assert torch.equal(values, values[:, :1].expand_as(values))
    assert abs(dropped.mean().item() - 1) < 0.05
    assert torch.equal(layer.eval()(x), x)
