"""The visual attention network: its size and reach, its norms, hidden units, and what it refuses."""

import copy
import warnings

import onnxruntime
import pytest
import torch
from torch import nn

from mimzoo import testing
from mimzoo.errors import ShapeError
from mimzoo_van import mimzoo_encoders
from mimzoo_van.args import VanArgs
from mimzoo_van.blocks import Block, LargeKernelAttention, initialise
from mimzoo_van.encoder import VisualAttentionNetwork

SPECS = {spec.name: spec for spec in mimzoo_encoders()}
SMALL = {"widths": (8, 16), "depths": (1, 2), "mlp_ratios": (2, 1)}


def make(crop=(16, 16, 16), in_channels=1, **args):
    """An encoder whose branches count: one fresh from its maker takes a hundredth of each."""
    torch.manual_seed(0)
    encoder = VisualAttentionNetwork(VanArgs.model_validate({**SMALL, **args}), in_channels, crop)
    for parameter in encoder.parameters():
        if parameter.dim() in (1, 4):
            nn.init.normal_(parameter, mean=0.5, std=0.5)
    return encoder.eval()


def half_hidden(batch=1):
    """A mask (batch, 4, 4, 4) that hides every other unit."""
    corner = torch.arange(4)
    odd = (corner[:, None, None] + corner[:, None] + corner) % 2 == 1
    return odd.expand(batch, 4, 4, 4)


def spread(mask, unit):
    """A mask (B, *units) on voxels, (B, 1, X, Y, Z)."""
    return nn.functional.interpolate(mask[:, None].float(), scale_factor=unit).bool()


def parameters_of_a_block(width, ratio):
    """The number of weights and biases that the paper's block has in 3D."""
    attention = (width * 125 + width) + (width * 343 + width) + 3 * (width**2 + width)
    hidden = width * ratio
    mlp = (width * hidden + hidden) + (hidden * 27 + hidden) + (hidden * width + width)
    norms_and_scales = 2 * 2 * width + 2 * width
    return attention + mlp + norms_and_scales


@pytest.mark.parametrize(
    ("name", "widths", "depths"),
    [
        ("van-tiny", (32, 64, 160, 256), (3, 3, 5, 2)),
        ("van-small", (64, 128, 320, 512), (2, 2, 4, 2)),
        ("van-base", (64, 128, 320, 512), (3, 3, 12, 3)),
    ],
)
def test_the_sizes_are_those_of_the_paper(name, widths, depths):
    spec = SPECS[name]
    with torch.device("meta"):
        encoder = spec.load()(spec.check({}), 1, (32, 32, 32))
    assert encoder.channels == widths
    assert encoder.strides == ((2, 2, 2), (4, 4, 4), (8, 8, 8), (16, 16, 16))
    for stage, width, depth, ratio in zip(encoder.stages, widths, depths, (8, 8, 4, 4), strict=True):
        count = sum(parameter.numel() for parameter in stage.blocks.parameters())
        assert count == depth * parameters_of_a_block(width, ratio)


def test_the_gate_of_a_value_sees_23_cells_along_each_axis():
    gate, x = LargeKernelAttention(2), torch.ones(1, 2, 31, 31, 31)
    for parameter in gate.parameters():
        nn.init.ones_(parameter)
    other = x.clone()
    other[0, 0, 15, 15, 15] += 1
    with torch.no_grad():
        changed = (gate(other) - gate(x)).abs()[0].amax(0) > 0
    for axes in ((1, 2), (0, 2), (0, 1)):
        along = changed.any(axes[1]).any(axes[0]).nonzero()[:, 0]
        assert (along.min(), along.max()) == (15 - 11, 15 + 11)


def test_the_gate_multiplies():
    gate, x = LargeKernelAttention(3), torch.randn(1, 3, 4, 4, 4)
    nn.init.zeros_(gate.mix.weight)
    gate.mix.bias.data = torch.tensor([0.0, 1.0, -2.0])
    assert torch.allclose(gate(x), x * torch.tensor([0.0, 1.0, -2.0]).view(3, 1, 1, 1))


def test_patches_overlap():
    """A voxel reaches every cell of the stem whose centre is at most three voxels away."""
    encoder, volume = make(), torch.zeros(1, 1, 16, 16, 16)
    embed = encoder.stem.conv
    with torch.no_grad():
        other = volume.clone()
        other[0, 0, 8, 7, 8] = 1
        changed = (embed(other) - embed(volume)).abs()[0].amax(0) > 0
    # Centres lie on even voxels: 6, 8 and 10 of 8, but 4, 6, 8 and 10 of 7.
    assert changed.any(2).any(1).nonzero()[:, 0].tolist() == [3, 4, 5]
    assert changed.any(2).any(0).nonzero()[:, 0].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("stride", [(1, 1, 1), (4, 4, 4), (2, 4, 1)])
@pytest.mark.parametrize("size", [(16, 16, 16), (8, 24, 16)])
def test_the_stem_takes_any_stride_and_crop(stride, size):
    encoder = make(size, stride=stride)
    assert encoder.strides == (stride, tuple(2 * s for s in stride))
    grids = [found.shape[2:] for found in encoder(torch.randn(1, 1, *size))]
    assert grids == [tuple(n // s for n, s in zip(size, stride, strict=True)) for stride in encoder.strides]


def test_every_map_is_normed_over_the_channels_of_each_cell():
    encoder = make()
    for stage in encoder.stages:
        nn.init.ones_(stage.norm.weight)
        nn.init.zeros_(stage.norm.bias)
    for found in encoder(torch.randn(1, 1, 16, 16, 16)):
        assert found.mean(1).abs().max() < 1e-5
        assert (found.var(1, unbiased=False) - 1).abs().max() < 0.01


@pytest.mark.parametrize(("norm", "alone"), [("group", True), ("batch", False)])
def test_in_training_a_crop_depends_on_the_others_under_batch_norm_only(norm, alone):
    encoder, volume = make(norm=norm).train(), torch.randn(2, 1, 16, 16, 16)
    first = encoder(volume)[-1][0]
    second = encoder(torch.stack([volume[0], 3 * volume[1] + 1]))[-1][0]
    assert torch.allclose(first, second, atol=1e-5) == alone


def test_a_fresh_block_is_almost_nothing_but_its_input():
    torch.manual_seed(0)
    block, x = Block(16, 4, "group"), torch.randn(1, 16, 8, 8, 8)
    initialise(block)
    assert 0 < (block(x) - x).abs().mean() < 0.05
    nn.init.ones_(block.scale1)
    assert (block(x) - x).abs().mean() > 0.2


def test_convolutions_begin_with_variance_two_over_their_fan_out():
    torch.manual_seed(0)
    stage = VisualAttentionNetwork(VanArgs(**{**SMALL, "widths": (64, 64)}), 1, (16, 16, 16)).stages[1]
    gate, mlp = stage.blocks[0].attention.gate, stage.blocks[0].mlp
    # Every channel of a depthwise convolution has one output.
    for weight, fan_out in ((gate.near.weight, 125), (gate.far.weight, 343), (mlp.enter.weight, 64)):
        assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.06)
    assert stage.embedding.conv.weight.std().item() == pytest.approx((2 / (64 * 27)) ** 0.5, rel=0.03)
    assert not mlp.near.bias.any()


def test_nothing_of_the_hidden_voxels_reaches_the_tokens_whatever_they_hold():
    encoder, volume, token = make(), torch.randn(2, 1, 16, 16, 16), torch.randn(8)
    mask = half_hidden(2)
    clean = encoder.encode(volume, mask, token).values
    for rubbish in (1e6, -0.0, float("nan"), float("inf")):
        dirty = torch.where(spread(mask, 4), rubbish, volume)
        assert torch.equal(encoder.encode(dirty, mask, token).values, clean)


def test_with_nothing_hidden_the_tokens_are_the_last_map():
    encoder, volume = make(), torch.randn(2, 1, 16, 16, 16)
    tokens = encoder.encode(volume, torch.zeros(2, 2, 2, 2, dtype=torch.bool), torch.randn(8))
    assert torch.equal(tokens.values, encoder(volume)[-1].flatten(2).transpose(1, 2))


def test_the_mask_token_stands_in_for_the_cells_of_the_stem():
    """Where the stem gives nothing but the token, hiding changes nothing."""
    encoder, volume = make(), torch.randn(1, 1, 16, 16, 16)
    nn.init.zeros_(encoder.stem.norm.weight)
    tokens = encoder.encode(volume, half_hidden(), encoder.stem.norm.bias)
    assert torch.allclose(tokens.values, encoder(volume)[-1].flatten(2).transpose(1, 2), atol=1e-6)
    other = encoder.encode(volume, half_hidden(), encoder.stem.norm.bias + 1)
    assert not torch.allclose(tokens.values, other.values, atol=0.1)


def test_it_refuses_to_drop_since_its_kernels_read_everything():
    with pytest.raises(ShapeError, match="can only replace hidden units; use mode replace"):
        make().encode(torch.zeros(1, 1, 16, 16, 16), half_hidden())


def test_units_that_are_no_multiple_of_the_coarsest_cell_are_refused():
    with pytest.raises(ShapeError, match="the grid 4 x 4 x 4 is not divisible"):
        make().encode(torch.zeros(1, 1, 16, 16, 16), torch.zeros(1, 8, 8, 8, dtype=torch.bool), torch.zeros(8))


def test_the_depth_of_every_parameter_rises_through_the_stages():
    encoder = make(widths=(8, 16, 16), depths=(1, 2, 1), mlp_ratios=(1, 1, 1))
    depths = {name: encoder.depth_of(name) for name, _ in encoder.named_parameters()}
    assert depths["stem.conv.weight"] == depths["stem.norm.bias"] == 0
    assert depths["stages.0.blocks.0.scale1"] == depths["stages.0.norm.weight"] == 1
    assert depths["stages.1.embedding.conv.weight"] == depths["stages.1.blocks.0.norm1.weight"] == 2
    assert depths["stages.1.blocks.1.mlp.near.bias"] == depths["stages.1.norm.bias"] == 3
    assert depths["stages.2.embedding.norm.weight"] == encoder.depth == 4


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"depths": (2, 2)}, "4 widths, 2 depths, 4 mlp_ratios"),
        ({"widths": (8, 12, 16, 16)}, "argument 'widths.1'"),
        ({"stride": (8, 8, 8)}, "argument 'stride.0'"),
        ({"norm": "layer"}, "argument 'norm'"),
        ({"width": 8}, "did you mean 'widths'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(args, sentence):
    with pytest.raises(ShapeError, match=sentence):
        SPECS["van-tiny"].check(args)


@pytest.mark.parametrize("args", [{}, {"norm": "batch"}, {"stride": (4, 2, 1)}])
def test_it_conforms(monkeypatch, args):
    monkeypatch.setattr("mimzoo.testing.encoders.find", lambda kind, name: SPECS[name])
    testing.check_encoder("van-tiny", {**SMALL, **args}, crop=(16, 16, 16))


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_exported_graph_agrees_with_float64_on_constant_air(norm):
    encoder = make(norm=norm)
    volume = torch.zeros(1, 1, 16, 16, 16)
    volume[..., 4:12, 4:12, 4:12] = 0.5 + 0.03 * torch.randn(8, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(encoder, (volume,), opset_version=20, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    found = session.run(None, {session.get_inputs()[0].name: volume.numpy()})
    with torch.no_grad():
        wanted = copy.deepcopy(encoder).double()(volume.double())
    for ours, exact in zip(found, wanted, strict=True):
        assert (torch.from_numpy(ours) - exact).abs().max() < 1e-4
