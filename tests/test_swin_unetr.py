"""The decoder of Swin UNETR: MONAI's outputs for MONAI's weights, any pyramid, and what it refuses."""

import copy

import pytest
import torch
from graphs import constant_air, exported
from monai.networks.nets import swin_unetr
from monai_swin import head_names, randomise, renamed

from mimzoo.errors import ShapeError
from mimzoo.models import TaskModel
from mimzoo_peers.swin_layout import sort_corners
from mimzoo_resenc.args import ResEncArgs
from mimzoo_resenc.encoder import ResidualEncoder
from mimzoo_seg.args import SwinUnetrArgs
from mimzoo_seg.swin_unetr import SwinUnetr
from mimzoo_swin.args import SwinArgs
from mimzoo_swin.encoder import SwinTransformer

SIZE = (32, 32, 64)
SHAPE = {"depths": (2, 1, 2, 1), "heads": (3, 2, 4, 6), "window": (7, 7, 7)}


def pair(use_v2, downsample):
    """MONAI's Swin UNETR of two channels and three classes, and ours with its weights."""
    torch.manual_seed(0)
    theirs = randomise(
        swin_unetr.SwinUNETR(
            in_channels=2, out_channels=3, feature_size=12, depths=SHAPE["depths"], num_heads=SHAPE["heads"],
            use_v2=use_v2, downsample=downsample,
        )
    )  # fmt: skip
    encoder = SwinTransformer(SwinArgs(width=12, residual_convolutions=use_v2, **SHAPE), 2, SIZE)
    head = SwinUnetr(SwinUnetrArgs(), encoder.channels, encoder.strides, 2, 3)
    state = theirs.state_dict()
    encoder.load_state_dict(renamed(below(state, "swinViT.")), strict=True)
    ours = head_names({key: value for key, value in state.items() if not key.startswith("swinViT.")})
    report = head.load_state_dict(ours, strict=False)
    assert not report.unexpected_keys and all("norm" in key for key in report.missing_keys)
    return theirs, TaskModel(encoder, head).eval()


def below(state, prefix):
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


@pytest.mark.parametrize("downsample", ["merging", "mergingv2"])
@pytest.mark.parametrize("use_v2", [False, True])
def test_its_outputs_are_those_of_monai_for_the_same_weights(use_v2, downsample):
    theirs, ours = pair(use_v2, downsample)
    if downsample == "mergingv2":
        ours.encoder.load_state_dict(sort_corners(ours.encoder.state_dict()))
    volume = torch.randn(2, 2, *SIZE)
    with torch.no_grad():
        wanted = theirs(volume)
        assert wanted.std() > 0.1 and (ours(volume) - wanted).abs().max() < 1e-4
        assert (ours.double()(volume.double()) - theirs.double()(volume.double())).abs().max() < 1e-10


def test_the_comparison_with_monai_can_fail():
    theirs, ours = pair(False, "merging")
    ours.head.skips[2].conv2.weight.data = ours.head.skips[2].conv2.weight.data.flip(2)
    volume = torch.randn(1, 2, *SIZE)
    with torch.no_grad():
        assert (ours(volume) - theirs(volume)).abs().max() > 1e-4


def make(strides, channels, **args):
    torch.manual_seed(0)
    return SwinUnetr(SwinUnetrArgs(**args), channels, strides, 1, 2).eval()


@pytest.mark.parametrize(
    "strides",
    [
        ((2, 2, 2), (4, 4, 4)),
        ((1, 1, 1), (2, 2, 1), (4, 4, 2)),
        ((4, 4, 2), (8, 8, 4), (16, 16, 8)),
        ((8, 8, 8),),
    ],
)
def test_any_pyramid_whose_strides_divide_each_other_gives_full_resolution(strides):
    head = make(strides, [8] * len(strides))
    maps = [torch.randn(1, 8, *(n // s for n, s in zip((32, 16, 48), stride, strict=True))) for stride in strides]
    assert head(maps, torch.randn(1, 1, 32, 16, 48)).shape == (1, 2, 32, 16, 48)


@pytest.mark.parametrize("strides", [((8, 8, 8),) * 4, ((4, 4, 4), (6, 6, 6)), ((8, 8, 8), (4, 4, 4))])
def test_maps_that_form_no_pyramid_are_refused(strides):
    with pytest.raises(ShapeError, match="takes a pyramid.*this encoder's strides are .*; the unetr head takes"):
        make(strides, [8] * len(strides))


def test_the_width_at_full_resolution_can_be_chosen():
    narrow, wide = (make(((2, 2, 2), (4, 4, 4)), (16, 32), width=width) for width in (4, None))
    assert narrow.logits.in_channels == 4 and wide.logits.in_channels == 16


def test_an_exported_segmenter_agrees_with_float64_on_constant_air_at_any_batch():
    torch.manual_seed(0)
    encoder = ResidualEncoder(ResEncArgs(features=(4, 8, 8), blocks=(1, 1, 1)), 1, (32, 32, 32))
    head = SwinUnetr(SwinUnetrArgs(), encoder.channels, encoder.strides, 1, 3)
    model = TaskModel(encoder, head).eval()
    run, exact = exported(model, torch.zeros(2, 1, 32, 32, 32)), copy.deepcopy(model).double()
    for batch in (1, 2, 3):
        volumes = torch.cat([constant_air() * (1 + 0.1 * n) for n in range(batch)])
        with torch.no_grad():
            wanted = exact(volumes.double())
        assert (run(volumes) - wanted).abs().max() < 1e-4
