"""Primus beyond what every encoder must do: rotary positions against loops, any crop, hiding, export."""

import cmath
import io
import logging
from math import exp, sqrt

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimzoo import testing
from mimzoo.errors import ShapeError
from mimzoo.registry import find
from mimzoo.tokens import patchify, visible_index
from mimzoo_primus.args import PrimusArgs
from mimzoo_primus.block import rotary_positions, rotate
from mimzoo_primus.encoder import Primus


def make(crop=(16, 16, 16), in_channels=1, **args):
    """A tiny encoder in which every parameter matters: none is left at zero or one."""
    torch.manual_seed(0)
    given = {"patch": (4, 4, 4), "width": 24, "depth": 4, "heads": 2, **args}
    encoder = Primus(PrimusArgs.model_validate(given), in_channels, crop).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def layer_norm(row, norm):
    mean = sum(row) / len(row)
    deviation = sqrt(sum((value - mean) ** 2 for value in row) / len(row) + 1e-5)
    scaled = zip(row, norm.weight.tolist(), norm.bias.tolist(), strict=True)
    return [(value - mean) / deviation * weight + bias for value, weight, bias in scaled]


def linear(row, layer):
    bias = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [
        sum(a * b for a, b in zip(row, weights, strict=True)) + c
        for weights, c in zip(layer.weight.tolist(), bias, strict=True)
    ]


def turned(head, cell):
    """One head's channels as complex numbers, pair by pair, each turned by its angle: first pairs by X, last by Z."""
    pairs = [complex(*head[i : i + 2]) for i in range(0, len(head), 2)]
    third = len(pairs) // 3
    return [pair * cmath.exp(1j * cell[i // third] / 10000 ** (i % third / third)) for i, pair in enumerate(pairs)]


def attend(rows, cells, attention):
    """Multi-head attention by loops, over rows (n, D) that lie in `cells`."""
    width = attention.q.in_features // attention.heads
    parts = [[linear(row, layer) for row in rows] for layer in (attention.q, attention.k, attention.v)]
    mixed = [[] for _ in rows]
    for start in range(0, width * attention.heads, width):
        q, k, v = ([row[start : start + width] for row in part] for part in parts)
        keys = [turned(row, cell) for row, cell in zip(k, cells, strict=True)]
        for row, query in enumerate(turned(row, cell) for row, cell in zip(q, cells, strict=True)):
            scores = [sum((a * b.conjugate()).real for a, b in zip(query, key, strict=True)) for key in keys]
            shares = [exp(score / sqrt(width)) for score in scores]
            mixed[row] += [
                sum(s * value[i] for s, value in zip(shares, v, strict=True)) / sum(shares) for i in range(width)
            ]
    return [linear(layer_norm(row, attention.norm), attention.out) for row in mixed]


def gated(row, mlp):
    hidden = [g / (1 + exp(-g)) * v for g, v in zip(linear(row, mlp.gate), linear(row, mlp.value), strict=True)]
    return linear(layer_norm(hidden, mlp.norm), mlp.out)


def plus(rows, branch, scale):
    scales = scale.tolist()
    return [[a + s * b for a, b, s in zip(*pair, scales, strict=True)] for pair in zip(rows, branch, strict=True)]


def by_loops(encoder, volume, cells, token=None, replaced=()):
    """The encoder's tokens (n, D) of the patches in `cells` alone, those `replaced` being `token`, by loops."""
    flat = patchify(volume, encoder.mask_unit)[0].reshape(*encoder.grid, -1)
    kernels, biases = encoder.patch.weight.flatten(1).tolist(), encoder.patch.bias.tolist()
    rows = []
    for cell in cells:
        voxels, position = flat[cell].tolist(), encoder.positions[(0, slice(None), *cell)].tolist()
        dots = [sum(a * b for a, b in zip(voxels, kernel, strict=True)) for kernel in kernels]
        embedded = token.tolist() if cell in replaced else [a + b for a, b in zip(dots, biases, strict=True)]
        rows.append([a + b for a, b in zip(embedded, position, strict=True)])
    for block in encoder.blocks:
        rows = plus(rows, attend([layer_norm(row, block.norm1) for row in rows], cells, block.attention), block.scale1)
        rows = plus(rows, [gated(layer_norm(row, block.norm2), block.mlp) for row in rows], block.scale2)
    return torch.tensor([layer_norm(row, encoder.norm) for row in rows])


def cells_of(grid):
    return [(x, y, z) for x in range(grid[0]) for y in range(grid[1]) for z in range(grid[2])]


def test_the_last_map_is_what_loops_compute():
    encoder, volume = make(crop=(8, 12, 16)), torch.randn(1, 1, 8, 12, 16)
    expected = by_loops(encoder, volume, cells_of((2, 3, 4)))
    assert torch.allclose(encoder(volume)[-1][0].flatten(1).T, expected, atol=1e-5)


def test_dropped_tokens_are_what_loops_compute_of_the_visible_patches_in_their_places():
    encoder, volume = make(crop=(12, 12, 8)), torch.randn(1, 1, 12, 12, 8)
    mask = torch.rand(1, 3, 3, 2, generator=torch.Generator().manual_seed(1)) < 0.6
    cells = [cells_of((3, 3, 2))[number] for number in visible_index(mask)[0].tolist()]
    assert 3 < len(cells) < 12
    tokens = encoder.encode(volume, mask)
    assert torch.allclose(tokens.values[0], by_loops(encoder, volume, cells), atol=1e-5)


def test_replaced_tokens_are_what_loops_compute_of_the_mask_token_in_their_places():
    encoder, volume, token = make(crop=(8, 12, 8)), torch.randn(1, 1, 8, 12, 8), torch.randn(24)
    mask = torch.rand(1, 2, 3, 2, generator=torch.Generator().manual_seed(1)) < 0.6
    cells = cells_of((2, 3, 2))
    replaced = [cell for cell in cells if mask[(0, *cell)]]
    assert 3 < len(replaced) < 10
    values = encoder.encode(volume, mask, token).values[0]
    assert torch.allclose(values, by_loops(encoder, volume, cells, token, replaced), atol=1e-5)


def test_every_sample_keeps_its_own_places_when_others_are_hidden_in_each():
    encoder, volume = make(), torch.randn(2, 1, 16, 16, 16)
    mask = torch.stack([torch.arange(64).reshape(4, 4, 4) % 4 > 0, torch.arange(64).reshape(4, 4, 4) % 4 < 3])
    together = encoder.encode(volume, mask).values
    alone = [encoder.encode(volume[i : i + 1], mask[i : i + 1]).values[0] for i in range(2)]
    assert torch.allclose(together, torch.stack(alone), atol=1e-5)


@given(
    cell=st.tuples(*[st.integers(0, 3)] * 3),
    other=st.tuples(*[st.integers(0, 3)] * 3),
    shift=st.tuples(*[st.integers(0, 4)] * 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=50, deadline=None)
def test_a_query_and_a_key_meet_by_their_distance_alone(cell, other, shift, seed):
    q, k = torch.randn(2, 1, 1, 1, 18, generator=torch.Generator().manual_seed(seed))
    places = rotary_positions((8, 8, 8), 18).reshape(8, 8, 8, 1, 1, 18)

    def product(a, b):
        return (rotate(q, places[a]) * rotate(k, places[b])).sum()

    moved = [tuple(n + s for n, s in zip(place, shift, strict=True)) for place in (cell, other)]
    assert torch.allclose(product(cell, other), product(*moved), atol=1e-4)


def test_turning_keeps_lengths_and_the_first_cell_is_not_turned():
    x, places = torch.randn(2, 3, 60, 18), rotary_positions((3, 4, 5), 18)
    found = rotate(x, places)
    assert torch.allclose(found.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert torch.equal(found[:, :, 0], x[:, :, 0]) and not torch.allclose(found[:, :, 1:], x[:, :, 1:])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_turns_its_own_third_of_a_head(axis):
    grid = tuple(4 if n == axis else 1 for n in range(3))
    x = torch.ones(1, 1, 4, 18)
    changed = (rotate(x, rotary_positions(grid, 18)) - x)[0, 0, 1].abs() > 1e-6
    assert changed.nonzero().flatten().tolist() == list(range(6 * axis, 6 * axis + 6))


@pytest.mark.parametrize(
    ("name", "depth", "millions"), [("primus-small", 12, 22.7), ("primus-base", 12, 90.5), ("primus-medium", 16, 143.6)]
)
def test_the_registered_sizes_are_those_of_the_paper(name, depth, millions):
    spec = find("encoder", name)
    with torch.device("meta"):
        encoder = spec.load()(spec.check({}), 1, (16, 16, 16))
    count = sum(parameter.numel() for parameter in encoder.blocks.parameters())
    assert encoder.depth == depth and count / 1e6 == pytest.approx(millions, abs=0.1)
    assert encoder.mask_unit == (8, 8, 8)


@pytest.mark.parametrize(("patch", "inner_norm"), [((8, 8, 4), True), ((2, 4, 8), False)])
def test_it_conforms_with_other_patches_and_without_the_inner_norm(patch, inner_norm):
    args = {"patch": patch, "width": 36, "depth": 5, "heads": 3, "inner_norm": inner_norm}
    testing.check_encoder("primus-small", args, crop=(16, 16, 16))


@pytest.mark.parametrize(("depth", "taps"), [(4, (1, 2, 3, 4)), (12, (3, 6, 9, 12)), (16, (4, 8, 12, 16))])
def test_maps_are_taken_at_the_quarters_of_the_depth(depth, taps):
    assert make(depth=depth).taps == taps


def test_the_maps_suit_the_unetr_head():
    encoder, volume = make(), torch.randn(1, 1, 16, 16, 16)
    spec = find("head", "unetr")
    head = spec.load()(spec.check({"width": 4}), encoder.channels, encoder.strides, 1, 3)
    assert head(encoder(volume), volume).shape == (1, 3, 16, 16, 16)


def test_a_branch_begins_at_the_layer_scale_and_its_last_layer_the_smaller_the_deeper_it_lies():
    torch.manual_seed(0)
    encoder = Primus(PrimusArgs(width=96, depth=4, heads=2, layer_scale=0.3), 1, (16, 16, 16))
    for number, block in enumerate(encoder.blocks, 1):
        assert block.scale1.unique().tolist() == block.scale2.unique().tolist() == [pytest.approx(0.3)]
        for end in (block.attention.out, block.mlp.out):
            assert end.weight.std().item() == pytest.approx(0.02 / sqrt(2 * number), rel=0.1)


def test_learned_positions_are_resized_linearly_to_another_crop():
    encoder = make(crop=(8, 8, 8))
    ramp = torch.tensor([0.0, 1.0])[:, None, None].expand(1, 24, 2, 2, 2)
    encoder.positions.data = ramp.contiguous()
    # (1, N, D) -> one value for each cell along X
    along = encoder._positions((4, 2, 2))[0, :, 0].reshape(4, 4)[:, 0]
    assert torch.allclose(along, torch.tensor([0.0, 0.25, 0.75, 1.0]))


def test_rotary_positions_serve_any_crop_whatever_crop_the_encoder_was_built_for():
    small, large = make(crop=(8, 8, 8)), make(crop=(16, 8, 12))
    shared = {key: value for key, value in small.state_dict().items() if key != "positions"}
    large.load_state_dict({**large.state_dict(), **shared})
    for encoder in (small, large):
        encoder.positions.data.zero_()
    volume = torch.randn(1, 1, 8, 12, 8)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(small(volume), large(volume), strict=True))


def test_the_state_holds_learned_positions_with_their_grid_and_no_rotations():
    state = make(crop=(8, 16, 4)).state_dict()
    assert state["positions"].shape == (1, 24, 2, 4, 1)
    assert not any("rotations" in key for key in state)
    assert "blocks.0.attention.q.bias" in state and "blocks.0.attention.k.bias" not in state


def test_units_larger_than_a_patch_hide_all_its_patches():
    mask = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    mask[0, 1, 1, 1] = True
    tokens = make().encode(torch.randn(1, 1, 16, 16, 16), mask)
    assert tokens.dropped and tokens.mask[0, 2:, 2:, 2:].all() and tokens.mask.sum() == 8
    assert tokens.values.shape == (1, 56, 24)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"width": 400}, "width 400 must be a multiple of 6 x heads = 36"),
        ({"depth": 0}, "argument 'depth'"),
        ({"layer_scale": 0.0}, "argument 'layer_scale'"),
        ({"positions": "sincos"}, "unknown argument 'positions'"),
        ({"drop_path": 1.0}, "argument 'drop_path'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(args, sentence):
    with pytest.raises(ShapeError, match=sentence):
        find("encoder", "primus-small").check(args)


def test_a_crop_that_no_patch_divides_is_refused_when_built_and_when_used():
    with pytest.raises(ShapeError, match="nearest is 16 x 16 x 16"):
        make(crop=(18, 16, 16))
    with pytest.raises(ShapeError, match="nearest is 16 x 16 x 12"):
        make()(torch.zeros(1, 1, 16, 16, 13))


def test_the_depth_of_every_parameter_rises_with_its_block():
    encoder = make()
    depths = {name: encoder.depth_of(name) for name, _ in encoder.named_parameters()}
    assert depths["positions"] == depths["patch.weight"] == 0
    assert depths["blocks.0.scale1"] == 1
    assert depths["blocks.3.mlp.out.bias"] == depths["norm.weight"] == encoder.depth == 4


def test_stochastic_depth_acts_in_training_only_and_is_on_unless_switched_off():
    encoder, volume = make(drop_path=0.9), torch.randn(4, 1, 16, 16, 16)
    evaluated = encoder(volume)[-1]
    assert torch.equal(evaluated, encoder(volume)[-1])
    torch.manual_seed(1)
    assert not torch.allclose(encoder.train()(volume)[-1], evaluated, atol=1e-3)
    assert [block.drop.rate for block in make(depth=5).blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_in_bfloat16_rotations_are_computed_precisely():
    encoder, exact = make(crop=(160, 4, 4)).bfloat16(), make(crop=(160, 4, 4)).rotations
    assert torch.equal(encoder.rotations, exact.bfloat16())
    assert torch.equal(encoder._rotations((30, 1, 1)), exact[:, :30].bfloat16())


def test_under_autocast_the_maps_stay_near_those_of_float32():
    encoder, volume = make(crop=(64, 8, 8)), torch.randn(1, 1, 64, 8, 8)
    exact = encoder(volume)[-1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder(volume)[-1]
    assert (found.float() - exact).abs().mean() < 0.02 * exact.abs().mean()


def test_the_exported_graph_computes_the_maps_of_any_batch():
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    encoder = make(crop=(8, 12, 8))
    program = torch.onnx.export(
        encoder,
        (torch.zeros(2, 1, 8, 12, 8),),
        input_names=["volume"],
        dynamic_shapes={"volume": {0: torch.export.Dim("batch", min=1, max=64)}},
        opset_version=20,
        dynamo=True,
        verbose=False,
    )
    buffer = io.BytesIO()
    onnx.save_model(program.model_proto, buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        volume = torch.randn(batch, 1, 8, 12, 8)
        maps = session.run(None, {"volume": volume.numpy()})
        with torch.no_grad():
            assert [np.abs(a - b.numpy()).max() < 1e-4 for a, b in zip(maps, encoder(volume), strict=True)] == [
                True
            ] * 4
