"""The decoder of UNETR as published: MONAI's outputs for its weights lie in the goldens; here patches, maps, export."""

import copy

import pytest
import torch
from graphs import constant_air, exported
from torch.nn import functional

from mimzoo import testing
from mimzoo.errors import ShapeError
from mimzoo.models import TaskModel
from mimzoo_seg.args import UnetrConcatArgs
from mimzoo_seg.unetr_concat import UnetrConcat
from mimzoo_vit.args import VitArgs
from mimzoo_vit.encoder import VisionTransformer

VARIANTS = [{}, {"residual": False}, {"refine_skips": False}, {"norm": "group", "width": 8}]


def make(patch, crop, in_channels=1, classes=3, **args):
    torch.manual_seed(0)
    encoder = VisionTransformer(VitArgs(patch=patch, width=24, depth=4, heads=2), in_channels, crop)
    head = UnetrConcat(UnetrConcatArgs(**{"width": 4, **args}), encoder.channels, encoder.strides, in_channels, classes)
    return TaskModel(encoder, head).eval()


@pytest.mark.parametrize("args", VARIANTS, ids=str)
def test_each_variant_conforms(args):
    testing.check_head("unetr-concat", {"width": 4, **args})


@pytest.mark.parametrize("patch", [(2, 2, 2), (4, 4, 4), (16, 16, 16), (8, 8, 4), (1, 4, 2), (32, 16, 16)])
def test_logits_have_full_resolution_for_any_patch_of_powers_of_two(patch):
    model = make(patch, (32, 16, 16), in_channels=2)
    assert model(torch.randn(1, 2, 32, 16, 16)).shape == (1, 3, 32, 16, 16)


@pytest.mark.parametrize(
    ("strides", "sentence"),
    [
        (((4, 4, 4), (8, 8, 8)), "the unetr-concat head takes maps of one stride.*this encoder's are 4 x 4 x 4, 8"),
        (((12, 8, 8),) * 2, "the unetr-concat head takes strides of 1, 2, 4, 8, 16 .* here it is 12 x 8 x 8"),
    ],
)
def test_maps_that_do_not_suit_are_refused(strides, sentence):
    with pytest.raises(ShapeError, match=sentence):
        UnetrConcat(UnetrConcatArgs(), (24, 24), strides, 1, 2)


def test_with_patches_of_16_it_has_the_widths_and_maps_of_the_paper():
    head = make((16, 16, 16), (16, 16, 32), width=16).head
    assert head.taps == [0, 1, 2] and head.used_maps == (0, 1, 2, 3)
    assert [block.conv2.out_channels for block in head.blocks] == [16, 32, 64, 128]
    assert [skip[0].out_channels for skip in head.skips] == [32, 64, 128]
    assert [len(skip) for skip in head.skips] == [3, 2, 1]


@pytest.mark.parametrize(("in_channels", "names"), [(1, ["conv1", "conv3"]), (4, ["conv1"])])
def test_what_reads_the_volume_is_named(in_channels, names):
    """At as many input channels as features the first block has no third convolution."""
    head = make((4, 4, 4), (16, 16, 16), in_channels=in_channels).head
    assert sorted(head.input_parameters) == [f"voxels.{name}.weight" for name in names]


def test_the_volume_itself_reaches_the_logits_at_full_resolution():
    """With all maps zero, two volumes that differ in one voxel give logits that differ around it."""
    model = make((8, 8, 8), (16, 16, 16))
    maps, volume = [torch.zeros(1, 24, 2, 2, 2)] * 4, torch.zeros(1, 1, 16, 16, 16)
    other = volume.clone()
    other[0, 0, 5, 9, 3] = 1
    change = (model.head(maps, other) - model.head(maps, volume)).abs().sum(1)[0]
    assert change[4:7, 8:11, 2:5].mean() > 2 * change.mean()


def test_it_learns_to_segment_what_it_is_shown():
    torch.manual_seed(0)
    model, volume = make((8, 8, 8), (16, 16, 16), classes=2).train(), torch.rand(1, 1, 16, 16, 16)
    labels = (functional.avg_pool3d(volume, 3, 1, 1) > 0.5)[:, 0].long()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        functional.cross_entropy(model(volume), labels).backward()
        optimiser.step()
    assert (model(volume).argmax(1) == labels).float().mean() > 0.9


def test_an_exported_segmenter_agrees_with_float64_on_constant_air_at_any_batch():
    torch.manual_seed(0)
    args = VitArgs(patch=(4, 4, 4), width=24, depth=4, heads=2, class_token=True, taps=(1, 3, 4))
    encoder = VisionTransformer(args, 1, (32, 32, 32))
    model = TaskModel(encoder, UnetrConcat(UnetrConcatArgs(width=4), encoder.channels, encoder.strides, 1, 3)).eval()
    run, exact = exported(model, torch.zeros(2, 1, 32, 32, 32)), copy.deepcopy(model).double()
    for batch in (1, 2, 3):
        volumes = torch.cat([constant_air() * (1 + 0.1 * n) for n in range(batch)])
        with torch.no_grad():
            wanted = exact(volumes.double())
        assert (run(volumes) - wanted).abs().max() < 1e-4
