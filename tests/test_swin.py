"""The shifted-window encoder: MONAI's computation and gradients, dropping by cells, and what it refuses."""

import io
import logging
import re
from math import prod

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import swin_unetr
from monai_swin import LegacyMerging, randomise, renamed

from mimzoo import testing
from mimzoo.errors import ShapeError
from mimzoo.registry import find
from mimzoo.tokens import expand_mask, visible_index
from mimzoo_mim.args import UnitArgs
from mimzoo_mim.masking import UniformMasking
from mimzoo_peers.swin_layout import sort_corners
from mimzoo_swin.args import SwinArgs
from mimzoo_swin.encoder import SwinTransformer
from mimzoo_swin.gradients import FrugalAttention, attend
from mimzoo_swin.uniform import visible_units
from mimzoo_swin.windows import _build, layout

SMALL = {"patch": (1, 1, 1), "width": 12, "depths": (2, 1), "heads": (3, 2), "window": (3, 3, 3)}
# MONAI's always has four stages.
FOUR = {"patch": (1, 1, 1), "width": 12, "depths": (2, 1, 2, 1), "heads": (3, 2, 4, 6), "window": (7, 7, 7)}
CPU = torch.device("cpu")


def make(crop=(16, 16, 16), in_channels=1, **args):
    torch.manual_seed(0)
    return randomise(SwinTransformer(SwinArgs.model_validate({**SMALL, **args}), in_channels, crop))


def pair(size, downsample="merging", use_v2=False, **args):
    """MONAI's encoder of two channels, and ours with its weights."""
    args = {**FOUR, **args}
    shape = [args[name] for name in ("width", "window", "patch", "depths", "heads")]
    torch.manual_seed(0)
    theirs = randomise(swin_unetr.SwinTransformer(2, *shape, downsample=downsample, use_v2=use_v2))
    encoder = make(size, in_channels=2, residual_convolutions=use_v2, **args)
    encoder.load_state_dict(renamed(theirs.state_dict()), strict=True)
    return theirs, encoder


def difference(maps, others):
    return max((a - b).abs().max().item() for a, b in zip(maps, others, strict=True))


@torch.no_grad()
def assert_same_maps(theirs, encoder, size):
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-11)):
        volume = torch.randn(2, 2, *size, dtype=dtype)
        assert difference(encoder.to(dtype)(volume), theirs.to(dtype)(volume)) < tolerance


# For windows of 7, an axis of 16 cells is padded to 21, and of 8 to 14; where there are 4 or 2, windows are cut.
@pytest.mark.parametrize("use_v2", [False, True])
@pytest.mark.parametrize(
    ("size", "args"),
    [
        ((16, 16, 16), {}),
        ((16, 32, 48), {"patch": (1, 2, 3), "window": (7, 5, 6)}),
        # Of the third stage's 4 x 8 x 4 cells, one axis fits, one is shifted, and along the last windows are cut.
        ((16, 32, 16), {"window": (4, 3, 6), "width": 24}),
    ],
)
def test_it_computes_what_monai_computes(size, args, use_v2):
    assert_same_maps(*pair(size, use_v2=use_v2, **args), size)


def test_weights_of_monais_other_merging_fit_once_their_corners_are_in_order():
    theirs, encoder = pair((16, 16, 16), downsample="mergingv2")
    encoder.load_state_dict(sort_corners(encoder.state_dict()))
    assert_same_maps(theirs, encoder, (16, 16, 16))


def test_the_legacy_merge_is_that_of_older_monai_and_differs_from_the_fixed_one():
    theirs, legacy = pair((16, 16, 16), downsample=LegacyMerging, merge="legacy")
    fixed, volume = pair((16, 16, 16), downsample=LegacyMerging)[1], torch.randn(2, 2, 16, 16, 16)
    first, *others = zip(legacy(volume), fixed(volume), strict=True)
    assert torch.equal(*first)
    assert all((a - b).abs().max() > 0.1 for a, b in others)
    assert_same_maps(theirs, legacy, (16, 16, 16))


@pytest.mark.parametrize("args", [{}, {"use_v2": True, "window": (4, 3, 6)}])
def test_its_gradients_are_those_of_monai(args):
    theirs, encoder = pair((16, 16, 16), **args)
    volume = torch.randn(2, 2, 16, 16, 16, dtype=torch.float64)
    for model in (encoder.double(), theirs.double()):
        torch.manual_seed(1)
        sum((found * torch.randn_like(found)).sum() for found in model(volume)).backward()
    wanted = renamed({name: parameter.grad for name, parameter in theirs.named_parameters()})
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad - wanted[name]).norm() <= 1e-9 * wanted[name].norm(), name


def attention_inputs(windows, heads=2, width=3):
    """Random qkv (2, N, 3 heads width), with one cell more where there is padding, and bias (heads, n, n)."""
    torch.manual_seed(0)
    qkv = torch.randn(2, len(windows.back) + windows.padded, 3 * heads * width, dtype=torch.float64)
    return qkv.requires_grad_(), torch.randn(heads, *[windows.size] * 2, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("cached", [1, 2**18])
@pytest.mark.parametrize(
    ("grid", "shifted", "groups"),
    [((5, 6, 3), True, 4), ((5, 6, 3), False, 4), ((8, 8, 4), True, 4), ((2, 3, 4), True, 1)],
)
def test_the_frugal_gradient_is_that_of_autograd(monkeypatch, grid, shifted, groups, cached):
    monkeypatch.setattr("mimzoo_swin.gradients.CACHED", cached)
    windows = layout(grid, (4, 4, 4), shifted, CPU)
    assert len(windows.groups) == groups
    inputs = attention_inputs(windows)
    found, wanted = FrugalAttention.apply(*inputs, windows), attend(*inputs, windows)
    weights = torch.randn_like(wanted)
    assert difference([found], [wanted]) < 1e-12
    assert difference(*(torch.autograd.grad(result, inputs, weights) for result in (found, wanted))) < 1e-10


def test_the_frugal_gradient_is_that_of_finite_differences():
    windows = layout((3, 2, 1), (2, 2, 2), True, CPU)
    assert windows.padded and len(windows.groups) == 2
    inputs = attention_inputs(windows, heads=1, width=2)
    assert torch.autograd.gradcheck(lambda *given: FrugalAttention.apply(*given, windows), inputs)


def test_in_bfloat16_the_frugal_gradient_stays_near_the_exact_one():
    windows = layout((5, 6, 3), (4, 4, 4), True, CPU)
    exact = attention_inputs(windows)
    given = (exact, [part.detach().bfloat16().requires_grad_() for part in exact])
    found = [torch.autograd.grad(FrugalAttention.apply(*x, windows).square().sum(), x) for x in given]
    for wanted, rough in zip(*found, strict=True):
        assert rough.dtype == torch.bfloat16 and (rough - wanted).norm() < 0.03 * wanted.norm()


def test_it_trains_where_the_backward_pass_runs_under_autocast_too():
    encoder = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder(torch.randn(1, 1, 16, 16, 16))[-1].square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_a_crop_first_seen_in_inference_mode_can_be_trained_on():
    encoder, volume = make(), torch.randn(1, 1, 16, 16, 16)
    _build.cache_clear()
    with torch.inference_mode():
        encoder(volume)
    encoder(volume)[-1].square().sum().backward()
    assert encoder.patch.weight.grad.any()


def test_the_windows_of_a_grid_are_built_once():
    assert layout((10, 6, 5), (4, 4, 4), True, CPU) is layout((10, 6, 5), (4, 4, 4), True, CPU)
    encoder, volume = make(), torch.randn(1, 1, 16, 16, 16)
    _build.cache_clear()
    # Three blocks, each on a grid or with a shift of its own
    for hits in (0, 3, 6):
        encoder(volume)
        assert (_build.cache_info().misses, _build.cache_info().hits) == (3, hits)


def uniform(cell, batch=2, units=(4, 4, 4)):
    """A mask (batch, *units) that shows one unit, drawn at random, of every cell."""
    grid = [n // side for n, side in zip(units, cell, strict=True)]
    hidden = torch.rand(batch, *grid, prod(cell), generator=torch.Generator().manual_seed(0)).argsort(-1) > 0
    # (B, CX, CY, CZ, n) -> (B, CX, CY, CZ, a, b, c) -> (B, CX, a, CY, b, CZ, c) -> (B, UX, UY, UZ)
    return hidden.unflatten(-1, cell).permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, *units)


def random_mask():
    return (torch.rand(1, 64, generator=torch.Generator().manual_seed(1)).argsort(1) < 48).reshape(1, 4, 4, 4)


def part(place, size):
    """The slices of a block of some size, at a place counted in blocks."""
    return (..., *(slice(n * s, n * s + s) for n, s in zip(place, size, strict=True)))


def by_hand(encoder, volume, mask, cell, unit):
    """The tokens (n, D) of one sample's visible units, each of which is copied to a volume of their own."""
    places = {tuple(n // c for n, c in zip(place, cell, strict=True)): place for place in (~mask).nonzero().tolist()}
    dense = torch.zeros(1, len(volume), *(4 // c * n for c, n in zip(cell, unit, strict=True)))
    for corner, place in places.items():
        dense[part(corner, unit)] = volume[part(place, unit)]
    (found,), tokens = encoder(dense)[-1], [n // m for n, m in zip(unit, encoder.mask_unit, strict=True)]
    full = torch.zeros(len(found), *(4 * n for n in tokens))
    for corner, place in places.items():
        full[part(place, tokens)] = found[part(corner, tokens)]
    # (D, GX, GY, GZ) -> (D, n) -> (n, D)
    return full[:, ~expand_mask(mask[None], full.shape[1:])[0]].T


# Cells of 4 x 4 x 4 units, and the units' voxels, of which a token has 4 x 4 x 4
cells = pytest.mark.parametrize(
    ("cell", "unit"),
    [((2, 2, 1), (4, 4, 4)), ((1, 2, 2), (8, 4, 4)), ((2, 2, 2), (4, 4, 8)), ((1, 4, 2), (4, 8, 4))],
)


def sample(unit, batch=2):
    return torch.randn(batch, 1, *(4 * n for n in unit))


@cells
@torch.no_grad()
def test_dropping_encodes_the_visible_units_as_a_volume_of_their_own(cell, unit):
    encoder, volume, mask = make(), sample(unit), uniform(cell)
    tokens = encoder.encode(volume, mask)
    wanted = [by_hand(encoder, *one, cell, unit) for one in zip(volume, mask, strict=True)]
    assert tokens.dropped and torch.equal(tokens.mask, expand_mask(mask, tokens.mask.shape[1:]))
    assert torch.allclose(tokens.values, torch.stack(wanted), atol=1e-5)


@cells
@pytest.mark.parametrize("token", [None, torch.ones(12)])
def test_nothing_of_the_hidden_voxels_reaches_the_tokens_whatever_they_hold(cell, unit, token):
    encoder, volume, mask = make(), sample(unit), uniform(cell)
    clean = encoder.encode(volume, mask, token).values
    for rubbish in (1e6, -0.0, float("nan"), float("inf")):
        dirty = torch.where(expand_mask(mask, volume.shape[2:])[:, None], rubbish, volume)
        assert torch.equal(encoder.encode(dirty, mask, token).values, clean)


@cells
def test_what_is_hidden_is_never_computed(cell, unit):
    encoder, volume, counts = make(), sample(unit), []
    encoder.stages[0].register_forward_pre_hook(lambda stage, inputs: counts.append(inputs[0][..., 0].numel()))
    encoder(volume)
    encoder.encode(volume, uniform(cell))
    assert counts == [volume.numel(), volume.numel() // prod(cell)]


sides = st.sampled_from((2, 4, 6))


@settings(max_examples=20, deadline=None)
@given(st.tuples(sides, sides, sides), st.sampled_from([(4, 4, 4), (4, 8, 4)]), st.sampled_from([4, 8]), st.integers(0))
def test_what_uniform_masking_hides_can_be_dropped(units, unit, count, seed):
    encoder, volume = make(), torch.zeros(2, 1, *(n * u for n, u in zip(units, unit, strict=True)))
    masking = UniformMasking(UnitArgs(ratio=1 - 1 / count, unit=unit))
    mask = masking(volume, torch.Generator().manual_seed(seed % 2**32), encoder.mask_unit)
    encoder.check_mask(mask, dropped=True)
    index, grid = visible_units(mask)
    assert prod(grid) == prod(units) // count and torch.equal(index.sort().values, visible_index(mask))
    tokens = encoder.encode(volume, mask)
    assert tokens.values.shape == (2, visible_index(tokens.mask).shape[1], 48) and tokens.values.isfinite().all()


@pytest.mark.parametrize("second", [random_mask(), uniform((2, 2, 2), 1), torch.ones(1, 4, 4, 4, dtype=torch.bool)])
def test_units_that_are_not_hidden_uniformly_in_all_samples_can_be_replaced_only(second):
    encoder, volume, mask = make(), sample((4, 4, 4)), torch.cat([uniform((2, 2, 1), 1), second])
    for refused in (lambda: encoder.check_mask(mask, dropped=True), lambda: encoder.encode(volume, mask)):
        with pytest.raises(ShapeError, match="of 4 x 4 x 4 units, .* masking 'uniform', or objective 'simmim'"):
            refused()
    encoder.check_mask(mask, dropped=False)
    assert encoder.encode(volume, mask, torch.ones(12)).values.shape == (2, 64, 48)


def test_the_mask_token_stands_in_for_the_embedded_patches():
    """Where the embedding gives nothing but the token, hiding changes nothing."""
    encoder, volume = make(), sample((4, 4, 4))
    torch.nn.init.zeros_(encoder.patch.weight)
    plain, bias = encoder(volume)[-1].flatten(2).transpose(1, 2), encoder.patch.bias
    assert torch.equal(encoder.encode(volume, random_mask(), bias).values, plain)
    assert not torch.allclose(encoder.encode(volume, random_mask(), -bias).values, plain, atol=0.1)


def component(kind, name, *parts, **args):
    spec = find(kind, name)
    return spec.load()(spec.check(args), *parts)


def test_what_mae_trained_serves_another_crop_without_a_change():
    encoder = make()
    masking = component("masking", "uniform", ratio=0.75, unit=(4, 4, 4))
    decoder = component("decoder", "convolution", 48, (4, 4, 4), (16, 16, 16), 1, width=8)
    objective = component("objective", "mae", encoder, masking, decoder)
    objective(sample((4, 4, 4)), torch.Generator().manual_seed(0)).loss.backward()
    torch.optim.SGD(objective.parameters(), lr=0.1).step()
    parts = torch.nn.ModuleDict({"encoder": SwinTransformer(SwinArgs(**SMALL), 1, (20, 8, 12)), "decoder": decoder})
    parts.load_state_dict(objective.state_dict(), strict=True)
    volume = torch.randn(1, 1, 20, 8, 12)
    assert difference(parts["encoder"].eval()(volume), encoder.eval()(volume)) == 0


@pytest.mark.parametrize(
    ("name", "width", "depth", "parameters"),
    [("swin-tiny", 24, 8, 2_171_466), ("swin-small", 48, 8, 8_062_002), ("swin-base", 96, 12, 38_796_786)],
)
def test_the_sizes_are_those_of_monai(name, width, depth, parameters):
    with torch.device("meta"):
        encoder = component("encoder", name, 1, (64, 64, 32))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert encoder.depth == depth and encoder.channels == tuple(width * 2**i for i in range(5))
    assert encoder.strides == tuple((2**i,) * 3 for i in range(1, 6))


def test_the_depth_of_every_parameter_rises_through_the_stages():
    encoder = make(residual_convolutions=True)
    depths = {name: encoder.depth_of(name) for name, _ in encoder.named_parameters()}
    assert depths["patch.weight"] == 0
    assert depths["stages.0.convolutions.first.weight"] == depths["stages.0.blocks.0.attention.positions"] == 1
    assert depths["stages.0.blocks.1.mlp.2.bias"] == depths["stages.0.merge.linear.weight"] == 2
    assert depths["stages.1.convolutions.second.weight"] == depths["stages.1.merge.norm.bias"] == encoder.depth == 3
    assert list(depths.values()) == sorted(depths.values())


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"depths": (2, 2, 2)}, "depths (2, 2, 2) are 3 stages but heads (3, 6, 12, 24) are 4"),
        ({"heads": (3, 6, 12, 36)}, "the width 192 of stage 4 must be a multiple of its heads 36; change width 24"),
        ({"depths": (), "heads": ()}, "argument 'depths'"),
        ({"merge": "mergingv2"}, "argument 'merge'"),
        ({"windows": (7, 7, 7)}, "did you mean 'window'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(args, sentence):
    with pytest.raises(ShapeError, match=re.escape(sentence)):
        find("encoder", "swin-tiny").check(args)


def test_volumes_and_units_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="the crop 18 x 16 x 16 .* needs: 4 x 4 x 4; the nearest is 16 x 16 x 16"):
        make(crop=(18, 16, 16))
    encoder = make(in_channels=2)
    for call in (encoder, lambda volume: encoder.encode(volume, random_mask())):
        with pytest.raises(ShapeError, match="the crop 16 x 16 x 13 .* the nearest is 16 x 16 x 12"):
            call(torch.zeros(1, 2, 16, 16, 13))
        with pytest.raises(ShapeError, match="the volume has 3 channels, but this encoder was built for 2"):
            call(torch.zeros(1, 3, 16, 16, 16))
    with pytest.raises(ShapeError, match="the grid 4 x 4 x 4 is not divisible"):
        encoder.encode(torch.zeros(1, 2, 16, 16, 16), uniform((2, 2, 2), 1, units=(8, 8, 8)))


@pytest.mark.parametrize("args", [{}, {"merge": "legacy", "residual_convolutions": True, "qkv_bias": False}])
def test_it_conforms(args):
    testing.check_encoder("swin-tiny", {**SMALL, **args}, crop=(16, 16, 16))


def test_the_exported_graph_computes_the_maps_of_any_batch():
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    encoder = make(crop=(12, 8, 4), depths=(2,), heads=(3,), window=(5, 5, 5), residual_convolutions=True)
    windows = layout((12, 8, 4), (5, 5, 5), True, CPU)
    assert windows.padded and windows.groups[-1].mask is not None
    dynamic = {"volume": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.onnx.export(
        encoder, (torch.zeros(2, 1, 12, 8, 4),), input_names=["volume"], dynamic_shapes=dynamic,
        opset_version=20, dynamo=True, verbose=False,
    )  # fmt: skip
    buffer = io.BytesIO()
    onnx.save_model(program.model_proto, buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    for batch in (1, 2, 3):
        volume = torch.randn(batch, 1, 12, 8, 4)
        maps = session.run(None, {"volume": volume.numpy()})
        with torch.no_grad():
            assert difference(map(torch.from_numpy, maps), encoder(volume)) < 1e-4
