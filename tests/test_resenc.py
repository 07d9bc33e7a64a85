"""The residual encoder: nnU-Net's computation, hidden units that are left out, and what it refuses."""

import copy
import re
import warnings

import onnxruntime
import pytest
import torch
from dynamic_network_architectures.building_blocks import residual_encoders
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from mimzoo import testing
from mimzoo.errors import ShapeError
from mimzoo.norms import Norm
from mimzoo_resenc import mimzoo_encoders
from mimzoo_resenc.args import ResEncArgs
from mimzoo_resenc.encoder import ResidualEncoder

SPECS = {spec.name: spec for spec in mimzoo_encoders()}
SMALL = {"features": (4, 8, 8), "blocks": (1, 2, 1)}
UNEVEN = {"features": (4, 8, 8), "blocks": (1, 1, 2), "strides": ((1, 2, 2), 1, (2, 1, 2))}


def make(crop=(16, 16, 16), in_channels=1, **args):
    """An encoder whose every parameter is random: one fresh from its maker passes its blocks by."""
    torch.manual_seed(0)
    encoder = ResidualEncoder(ResEncArgs.model_validate({**SMALL, **args}), in_channels, crop)
    for parameter in encoder.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return encoder.eval()


def random_mask(*units, hidden, batch=1):
    order = torch.rand(batch, torch.Size(units).numel(), generator=torch.Generator().manual_seed(1)).argsort(1)
    return (order < hidden).reshape(batch, *units)


def spread(mask, unit):
    """A mask (B, *units) on voxels, (B, 1, X, Y, Z)."""
    return functional.interpolate(mask[:, None].float(), scale_factor=unit).bool()


@pytest.mark.parametrize(
    ("name", "parameters", "blocks"),
    [("resenc-small", 7_476_416, 11), ("resenc-base", 59_096_960, 17), ("resenc-large", 90_296_576, 26)],
)
def test_the_sizes_are_those_of_nnunet(name, parameters, blocks):
    spec = SPECS[name]
    with torch.device("meta"):
        encoder = spec.load()(spec.check({}), 1, (64, 64, 64))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert encoder.depth == blocks
    assert encoder.strides == tuple((2**i,) * 3 for i in range(6))


def of_nnunet(encoder, args):
    """The encoder of dynamic-network-architectures as nnU-Net builds it, with our weights."""
    strides = ResEncArgs(**args).stage_strides()
    features, blocks = args["features"], args["blocks"]
    kinds = {"norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True}, "nonlin": nn.LeakyReLU}
    theirs = residual_encoders.ResidualEncoder(
        2, len(features), features, nn.Conv3d, 3, strides, blocks, conv_bias=True, return_skips=True, **kinds
    )
    state = {key.replace("stem.", "stem.convs.0."): value for key, value in encoder.state_dict().items()}
    # The skip is a list there, in which the pooling comes before the convolution; a layer's second name is enough.
    number = [int(max(stride) > 1) for stride in strides]
    named = {
        re.sub(r"s\.(\d)(.*\.skip)\.", lambda m: f"s.{m[1]}{m[2]}.{number[int(m[1])]}.", key): state[key]
        for key in state
    }
    missing, unexpected = theirs.load_state_dict(named, strict=False)
    assert not unexpected and all("all_modules" in key for key in missing)
    return theirs.double()


@pytest.mark.parametrize("args", [SMALL, UNEVEN, {"features": (4, 4), "blocks": (2, 2)}])
@pytest.mark.parametrize("size", [(16, 16, 16), (8, 24, 16)])
def test_it_computes_what_nnunet_computes(args, size):
    encoder = make(size, in_channels=2, **args).double()
    volume = torch.randn(2, 2, *size, dtype=torch.float64)
    for ours, theirs in zip(encoder(volume), of_nnunet(encoder, args)(volume), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)


def test_convolutions_begin_as_in_nnunet_and_blocks_as_their_skips():
    torch.manual_seed(0)
    encoder = ResidualEncoder(ResEncArgs(features=(16, 32), blocks=(2, 1)), 1, (8, 8, 8))
    weight = encoder.stages[1].blocks[0].conv2.conv.weight
    assert weight.std().item() == pytest.approx((2 / (1 + 0.01**2) / (32 * 27)) ** 0.5, rel=0.02)
    assert all(not value.any() for key, value in encoder.state_dict().items() if key.endswith("bias"))
    x = torch.randn(1, 16, 4, 4, 4)
    assert torch.equal(encoder.stages[0].blocks[1](x), functional.leaky_relu(x, 0.01))


@pytest.mark.parametrize("args", [SMALL, UNEVEN])
def test_with_nothing_hidden_dropping_is_the_dense_encoder(args):
    encoder, volume = make(**args), torch.randn(2, 1, 16, 16, 16)
    nothing = torch.zeros(2, 4, 4, 4, dtype=torch.bool)
    tokens = encoder.encode(volume, nothing)
    assert torch.allclose(tokens.values, encoder(volume)[-1].flatten(2).transpose(1, 2), atol=1e-5)


def test_with_nothing_hidden_replacing_is_the_dense_encoder():
    encoder, volume = make(), torch.randn(1, 1, 16, 16, 16)
    tokens = encoder.encode(volume, torch.zeros(1, 4, 4, 4, dtype=torch.bool), torch.randn(4))
    assert torch.equal(tokens.values, encoder(volume)[-1].flatten(2).transpose(1, 2))


@pytest.mark.parametrize("args", [SMALL, UNEVEN])
def test_dropping_half_a_crop_encodes_the_other_half_alone(args):
    encoder, volume = make(crop=(32, 16, 16), **args), torch.randn(1, 1, 32, 16, 16)
    mask = torch.zeros(1, 4, 2, 2, dtype=torch.bool)
    mask[:, 2:] = True
    tokens = encoder.encode(volume, mask)
    alone = encoder(volume[:, :, :16])[-1]
    assert tokens.dropped
    assert torch.allclose(tokens.values, alone.flatten(2).transpose(1, 2), atol=1e-4)


@pytest.mark.parametrize("args", [SMALL, UNEVEN])
@pytest.mark.parametrize("token", [None, torch.ones(4)])
def test_nothing_of_the_hidden_voxels_reaches_the_tokens_whatever_they_hold(args, token):
    encoder, volume = make(**args), torch.randn(2, 1, 16, 16, 16)
    mask = random_mask(4, 4, 4, hidden=40, batch=2)
    clean = encoder.encode(volume, mask, token).values
    for rubbish in (1e6, -0.0, float("nan"), float("inf")):
        dirty = torch.where(spread(mask, 4), rubbish, volume)
        assert torch.equal(encoder.encode(dirty, mask, token).values, clean)


def test_every_visible_cell_reaches_its_own_token():
    encoder, volume = make(), torch.randn(1, 1, 16, 16, 16)
    # No two visible cells touch, so that only the statistics of the norms connect them.
    mask = torch.ones(1, 4, 4, 4, dtype=torch.bool)
    mask[:, ::2, 1::2, ::2] = False
    before = encoder.encode(volume, mask).values
    for number, cell in enumerate((~mask[0]).nonzero().tolist()):
        other = volume.clone()
        x, y, z = (4 * n for n in cell)
        other[0, 0, x : x + 4, y : y + 4, z : z + 4] *= -1
        change = (encoder.encode(other, mask).values - before).abs().sum(2)[0]
        assert change.argmax() == number


def test_the_mask_token_stands_in_for_the_cells_behind_the_stem():
    """Where the stem gives nothing but the token, hiding changes nothing."""
    encoder, volume = make(), torch.randn(1, 1, 16, 16, 16)
    torch.nn.init.zeros_(encoder.stem.norm.weight)
    token = functional.leaky_relu(encoder.stem.norm.bias, 0.01)
    values = encoder.encode(volume, random_mask(4, 4, 4, hidden=30), token).values
    assert torch.allclose(values, encoder(volume)[-1].flatten(2).transpose(1, 2), atol=1e-6)


def test_larger_units_hide_all_their_cells():
    mask = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    mask[0, 1, 1, 1] = True
    tokens = make().encode(torch.randn(1, 1, 16, 16, 16), mask)
    assert tokens.mask.shape == (1, 4, 4, 4)
    assert tokens.mask[0, 2:, 2:, 2:].all()
    assert tokens.values.shape == (1, 56, 8)


def test_in_bfloat16_masked_statistics_are_taken_in_float32():
    x = (torch.randn(1, 8, 16, 16, 16) + 100).bfloat16()
    visible = torch.rand(1, 1, 16, 16, 16) < 0.5
    exact = Norm("instance", 8)(x.double(), visible)
    found = Norm("instance", 8)(x, visible)
    assert found.dtype == torch.bfloat16
    assert (found.double() - exact).abs().max() < 0.02


@pytest.mark.parametrize("token", [None, torch.ones(4)])
def test_both_ways_of_hiding_run_in_bfloat16(token):
    encoder, volume = make(crop=(32, 32, 32)), torch.randn(2, 1, 32, 32, 32)
    mask = random_mask(8, 8, 8, hidden=256, batch=2)
    exact = encoder.encode(volume, mask, token).values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder.encode(volume, mask, token).values
    assert (found - exact).abs().mean() < 0.03 * exact.abs().max()


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(*[st.integers(1, 4)] * 3), st.sampled_from(["instance", "group"]), st.integers(0, 99), st.floats(-50, 50)
)
def test_a_masked_norm_is_the_norm_of_the_visible_positions(size, kind, seed, shift):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 16, *size, generator=generator).double() + shift
    visible = torch.rand(1, 1, *size, generator=generator) < 0.5
    visible.flatten()[0] = True
    norm = Norm(kind, 16).double()
    torch.nn.init.normal_(norm.weight, generator=generator)
    torch.nn.init.normal_(norm.bias, generator=generator)
    seen = x[0, :, visible[0, 0]]
    # (16, n) -> (groups, values), normed -> (16, n)
    grouped = seen.reshape(norm.groups, -1)
    normed = (grouped - grouped.mean(1, keepdim=True)) / (grouped.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    wanted = normed.reshape(16, -1) * norm.weight[:, None] + norm.bias[:, None]
    found = norm(x, visible)
    assert torch.allclose(found[0, :, visible[0, 0]], wanted, atol=1e-8)
    assert not found[0, :, ~visible[0, 0]].any()


def test_the_depth_of_every_parameter_rises_through_the_stages():
    encoder = make()
    depths = {name: encoder.depth_of(name) for name, _ in encoder.named_parameters()}
    assert depths["stem.conv.weight"] == depths["stem.norm.bias"] == 0
    assert depths["stages.0.blocks.0.conv1.conv.weight"] == 1
    assert depths["stages.1.blocks.0.skip.conv.weight"] == 2
    assert depths["stages.1.blocks.1.conv2.norm.weight"] == 3
    assert depths["stages.2.blocks.0.conv1.conv.bias"] == encoder.depth == 4
    assert list(depths.values()) == sorted(depths.values())


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"features": (8, 8)}, "there are 2 features, 6 blocks"),
        ({"strides": (1, 2)}, "6 blocks, 2 strides"),
        ({"features": (8, 0), "blocks": (1, 1)}, "argument 'features.1'"),
        ({"features": (), "blocks": ()}, "argument 'features'"),
        ({"stride": 2}, "did you mean 'strides'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(args, sentence):
    with pytest.raises(ShapeError, match=sentence):
        SPECS["resenc-large"].check(args)


def test_a_stride_is_one_number_or_one_for_each_axis():
    args = SPECS["resenc-large"].check({"features": [4, 4], "blocks": [1, 1], "strides": [[1, 1, 2], 2]})
    assert args.stage_strides() == [(1, 1, 2), (2, 2, 2)]


def test_a_crop_of_a_single_cell_is_refused_since_instance_norm_would_leave_nothing_of_it():
    with pytest.raises(ShapeError, match="crop 4 x 4 x 4 leaves 1 cell .* a cell is 4 x 4 x 4, use a larger crop"):
        make(crop=(4, 4, 4))
    with pytest.raises(ShapeError, match="leaves 1 cell"):
        make()(torch.zeros(1, 1, 4, 4, 4))
    with pytest.raises(ShapeError, match="the mask leaves 1 cell .* hide less"):
        make().encode(torch.zeros(1, 1, 16, 16, 16), random_mask(4, 4, 4, hidden=63))


def test_units_that_are_no_multiple_of_the_coarsest_cell_are_refused():
    with pytest.raises(ShapeError, match="the grid 4 x 4 x 4 is not divisible"):
        make().encode(torch.zeros(1, 1, 16, 16, 16), torch.zeros(1, 8, 8, 8, dtype=torch.bool))


@pytest.mark.parametrize("args", [{}, UNEVEN, {"features": (4, 6), "blocks": (2, 1), "strides": (2, (1, 2, 4))}])
def test_it_conforms(monkeypatch, args):
    monkeypatch.setattr("mimzoo.testing.encoders.find", lambda kind, name: SPECS[name])
    testing.check_encoder("resenc-small", {**SMALL, **args}, crop=(16, 16, 16))


def constant_air():
    """A CT-like volume (1, 1, 32, 32, 32): a noisy body in air that is exactly 0."""
    axes = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 3, indexing="ij"))
    noise = 0.5 + 0.03 * torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(0))
    return torch.where(axes.norm(dim=0) < 0.5, noise, 0)[None, None]


def test_the_exported_graph_agrees_with_float64_on_constant_air():
    encoder, volume = make(crop=(32, 32, 32)), constant_air()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(encoder, (volume,), opset_version=20, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    found = session.run(None, {session.get_inputs()[0].name: volume.numpy()})
    with torch.no_grad():
        wanted = copy.deepcopy(encoder).double()(volume.double())
    for ours, exact in zip(found, wanted, strict=True):
        assert (torch.from_numpy(ours) - exact).abs().max() < 1e-4
