"""The ViT beyond what every encoder must do: any crop, positions, speed of what is hidden, layer-wise decay."""

import pytest
import torch
from accelerate import init_empty_weights
from torch import nn
from torch.nn import functional

from mimzoo import testing
from mimzoo.errors import ShapeError
from mimzoo.registry import find
from mimzoo.tokens import patchify
from mimzoo.transformer import embed_patches
from mimzoo_vit.args import VitArgs
from mimzoo_vit.encoder import VisionTransformer


def make(crop=(16, 16, 16), in_channels=1, **args):
    torch.manual_seed(0)
    given = {"patch": (4, 4, 4), "width": 24, "depth": 4, "heads": 2, **args}
    return VisionTransformer(VitArgs.model_validate(given), in_channels, crop).eval()


@pytest.mark.parametrize(("name", "millions"), [("vit-tiny", 5.3), ("vit-small", 21.3), ("vit-base", 85.1)])
def test_the_registered_sizes_are_those_of_the_paper(name, millions):
    spec = find("encoder", name)
    with torch.device("meta"):
        blocks = spec.load()(spec.check({}), 1, (16, 16, 16)).blocks
    assert sum(parameter.numel() for parameter in blocks.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_the_embedding_is_a_convolution():
    encoder, volume = make(in_channels=2, patch=(4, 2, 8)), torch.randn(2, 2, 16, 16, 16)
    weight, bias = encoder.patch.weight, encoder.patch.bias
    convolved = functional.conv3d(volume, weight, bias, stride=(4, 2, 8)).flatten(2).transpose(1, 2)
    assert torch.allclose(embed_patches(patchify(volume, (4, 2, 8)), encoder.patch), convolved, atol=1e-5)


@pytest.mark.parametrize(
    ("depth", "taps"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (4, (1, 2, 3, 4)), (12, (3, 6, 9, 12)), (24, (6, 12, 18, 24))],
)
def test_maps_are_taken_at_the_quarters_of_the_depth(depth, taps):
    assert make(depth=depth).taps == taps


def test_the_last_map_alone_is_normed():
    maps = make()(torch.randn(1, 1, 16, 16, 16))
    means = [found.mean(1).abs().max().item() for found in maps]
    assert means[-1] < 1e-5 < min(means[:-1])


def test_fixed_positions_serve_any_crop_whatever_crop_the_encoder_was_built_for():
    small, large = make(crop=(8, 8, 8)), make(crop=(16, 8, 12))
    volume = torch.randn(1, 1, 8, 12, 8)
    assert all(torch.equal(a, b) for a, b in zip(small(volume), large(volume), strict=True))


def test_learned_positions_are_resized_linearly_to_another_crop():
    encoder = make(crop=(8, 8, 8), positions="learned")
    ramp = torch.tensor([0.0, 1.0])[:, None, None].expand(1, 24, 2, 2, 2)
    encoder.positions.data = ramp.contiguous()
    # (1, N, D) -> one value for each cell along X
    along = encoder._positions((4, 2, 2))[0, :, 0].reshape(4, 4)[:, 0]
    assert torch.allclose(along, torch.tensor([0.0, 0.25, 0.75, 1.0]))
    assert encoder(torch.randn(1, 1, 16, 8, 8))[0].shape == (1, 24, 4, 2, 2)


def test_fixed_positions_are_not_saved_and_learned_ones_are_with_their_grid():
    assert "positions" not in make().state_dict()
    assert make(crop=(8, 16, 4), positions="learned").state_dict()["positions"].shape == (1, 24, 2, 4, 1)


def test_learned_positions_begin_at_the_fixed_ones():
    volume = torch.randn(1, 1, 16, 16, 16)
    fixed, learned = make(), make(positions="learned")
    learned.load_state_dict({**learned.state_dict(), **fixed.state_dict()})
    assert torch.allclose(fixed(volume)[-1], learned(volume)[-1], atol=1e-6)


def test_dropped_tokens_are_what_the_encoder_makes_of_the_visible_patches_alone():
    """Without positions, dropping must equal encoding a volume made of the visible patches."""
    encoder = make()
    encoder.positions.zero_()
    volume = torch.randn(1, 1, 16, 16, 16)
    mask = torch.zeros(1, 4, 4, 4, dtype=torch.bool)
    mask[:, 2:] = True
    tokens = encoder.encode(volume, mask)
    assert tokens.dropped
    half = make(crop=(8, 16, 16))
    half.load_state_dict(encoder.state_dict())
    half.positions.zero_()
    alone = half(volume[:, :, :8])[-1]
    assert torch.allclose(tokens.values[0].T, alone.flatten(2)[0], atol=1e-5)


def test_a_replaced_token_keeps_its_position():
    encoder = make()
    mask = torch.ones(1, 4, 4, 4, dtype=torch.bool)
    mask[0, 0, 0, 0] = False
    values = encoder.encode(torch.randn(1, 1, 16, 16, 16), mask, torch.zeros(24)).values[0]
    assert len(torch.unique(values.round(decimals=4), dim=0)) == 64


def test_units_larger_than_a_patch_hide_all_its_patches():
    mask = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    mask[0, 1, 1, 1] = True
    tokens = make().encode(torch.randn(1, 1, 16, 16, 16), mask)
    assert tokens.mask[0, 2:, 2:, 2:].all()
    assert tokens.mask.sum() == 8
    assert tokens.values.shape == (1, 56, 24)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"heads": 5}, "width 192 must be a multiple of heads 5"),
        ({"depth": 0}, "argument 'depth'"),
        ({"pacth": [8, 8, 8]}, "did you mean 'patch'"),
        ({"positions": "rope"}, "argument 'positions'"),
        ({"drop_path": 1.0}, "argument 'drop_path'"),
        ({"norm_eps": 0}, "argument 'norm_eps'"),
        ({"taps": []}, "argument 'taps'"),
        ({"taps": [0, 12]}, "argument 'taps.0'"),
        ({"taps": [3, 6, 9]}, r"taps must rise, without repeats, to depth 12, got \[3, 6, 9\]"),
        ({"taps": [6, 3, 12]}, "taps must rise"),
        ({"taps": [6, 6, 12]}, "taps must rise"),
        ({"taps": [6, 12, 18]}, "taps must rise"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(args, sentence):
    with pytest.raises(ShapeError, match=sentence):
        find("encoder", "vit-tiny").check(args)


def test_a_crop_that_no_patch_divides_is_refused_when_built_and_when_used():
    with pytest.raises(ShapeError, match="nearest is 16 x 16 x 16"):
        make(crop=(18, 16, 16))
    with pytest.raises(ShapeError, match="nearest is 16 x 16 x 12"):
        make()(torch.zeros(1, 1, 16, 16, 13))


def test_the_depth_of_every_parameter_rises_with_its_block():
    encoder = make(positions="learned")
    depths = {name: encoder.depth_of(name) for name, _ in encoder.named_parameters()}
    assert depths["positions"] == depths["patch.weight"] == 0
    assert depths["blocks.0.norm1.weight"] == 1
    assert depths["blocks.3.mlp.2.bias"] == depths["norm.weight"] == encoder.depth == 4


def test_stochastic_depth_acts_in_training_only():
    encoder, volume = make(drop_path=0.9), torch.randn(4, 1, 16, 16, 16)
    evaluated = encoder(volume)[-1]
    assert torch.equal(evaluated, encoder(volume)[-1])
    torch.manual_seed(1)
    assert not torch.allclose(encoder.train()(volume)[-1], evaluated, atol=1e-3)


def test_in_bfloat16_fixed_positions_are_computed_precisely():
    encoder = make(crop=(128, 4, 4)).bfloat16()
    exact = make(crop=(128, 4, 4)).positions
    assert torch.equal(encoder.positions, exact.bfloat16())
    other = encoder._positions((40, 1, 1))
    assert torch.equal(other[:, :32], exact.bfloat16())


def test_maps_are_taken_where_asked_and_the_last_is_that_of_the_whole_depth():
    volume = torch.randn(1, 1, 16, 16, 16)
    all_maps, asked = make(), make(taps=(2, 4))
    assert asked.channels == (24, 24) and asked.strides == ((4, 4, 4),) * 2
    wanted = all_maps(volume)
    assert all(torch.equal(a, b) for a, b in zip(asked(volume), [wanted[1], wanted[3]], strict=True))


def test_all_norms_have_the_epsilon_that_is_asked_for():
    for args, eps in (({}, 1e-6), ({"norm_eps": 1e-5}, 1e-5)):
        found = {module.eps for module in make(**args).modules() if isinstance(module, nn.LayerNorm)}
        assert found == {eps}


def with_token(**args):
    """An encoder whose class token matters."""
    encoder = make(class_token=True, **args)
    encoder.class_token.data.normal_()
    return encoder


def through(encoder, tokens):
    """Tokens (B, N, D) behind the class token, after all blocks and without it again."""
    x = torch.cat([encoder.class_token.expand(tokens.shape[0], -1, -1), tokens], 1)
    for block in encoder.blocks:
        x = block(x)
    return encoder.norm(x)[:, 1:]


def test_a_class_token_attends_with_the_patches_but_is_in_no_map():
    encoder, volume = with_token(), torch.randn(2, 1, 16, 8, 8)
    tokens = embed_patches(patchify(volume, (4, 4, 4)), encoder.patch) + encoder._positions((4, 2, 2))
    maps = encoder(volume)
    assert [found.shape for found in maps] == [(2, 24, 4, 2, 2)] * 4
    assert torch.allclose(maps[-1].flatten(2).transpose(1, 2), through(encoder, tokens), atol=1e-5)
    encoder.class_token.data.mul_(-1)
    assert not torch.allclose(encoder(volume)[0], maps[0], atol=1e-3)


def test_a_class_token_is_never_hidden_and_not_among_the_tokens():
    encoder, volume = with_token(), torch.randn(2, 1, 16, 8, 8)
    mask = torch.zeros(2, 4, 2, 2, dtype=torch.bool)
    mask[:, ::2] = True
    tokens = embed_patches(patchify(volume, (4, 4, 4)), encoder.patch) + encoder._positions((4, 2, 2))
    visible = tokens[~mask.flatten(1)].reshape(2, 8, 24)
    assert torch.allclose(encoder.encode(volume, mask).values, through(encoder, visible), atol=1e-5)
    hidden = torch.ones(24) + encoder._positions((4, 2, 2))
    replaced = torch.where(mask.flatten(1)[:, :, None], hidden, tokens)
    found = encoder.encode(volume, mask, torch.ones(24)).values
    assert torch.allclose(found, through(encoder, replaced), atol=1e-5)


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_an_encoder_with_a_class_token_and_taps_of_its_own_conforms(positions):
    args = {"patch": (8, 8, 4), "width": 24, "depth": 5, "heads": 2, "positions": positions}
    testing.check_encoder("vit-tiny", {**args, "class_token": True, "taps": [2, 5]}, crop=(16, 16, 16))


def test_a_class_token_has_the_rate_of_the_patches_and_is_begun_small():
    encoder = make(class_token=True)
    assert encoder.depth_of("class_token") == 0
    assert 0.005 < encoder.class_token.std() < 0.05


def test_without_a_class_token_nothing_of_one_is_saved_or_drawn():
    assert "class_token" not in make().state_dict()
    plain, other = make(), make(class_token=True)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in plain.state_dict().items())


def test_it_is_built_without_memory_for_its_parameters():
    with init_empty_weights(include_buffers=False):
        encoder = make(class_token=True, positions="learned")
        fixed = make()
    assert {parameter.device.type for parameter in encoder.parameters()} == {"meta"}
    assert fixed.positions.device.type == "cpu"
