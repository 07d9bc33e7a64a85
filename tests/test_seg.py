"""The UNETR-like head: any power-of-two patch, its cost, and its export."""

import copy

import pytest
import torch
from graphs import constant_air, exported
from torch.nn import functional

from mimzoo.errors import ShapeError
from mimzoo.models import TaskModel
from mimzoo_seg.args import UnetrArgs
from mimzoo_seg.unetr import Unetr
from mimzoo_vit.args import VitArgs
from mimzoo_vit.encoder import VisionTransformer


def make(patch, crop, in_channels=1, classes=3, **args):
    torch.manual_seed(0)
    encoder = VisionTransformer(VitArgs(patch=patch, width=24, depth=4, heads=2), in_channels, crop)
    head = Unetr(UnetrArgs(**{"width": 4, **args}), encoder.channels, encoder.strides, in_channels, classes)
    return TaskModel(encoder, head).eval()


@pytest.mark.parametrize("patch", [(2, 2, 2), (4, 4, 4), (8, 8, 8), (16, 16, 16), (8, 8, 4), (1, 4, 2), (32, 16, 16)])
def test_logits_have_full_resolution_for_any_patch_of_powers_of_two(patch):
    model = make(patch, (32, 16, 16), in_channels=2)
    assert model(torch.randn(1, 2, 32, 16, 16)).shape == (1, 3, 32, 16, 16)
    assert model(torch.randn(1, 2, 32, 32, 48)).shape == (1, 3, 32, 32, 48)


@pytest.mark.parametrize(("patch", "taps"), [(2, []), (4, [2]), (8, [0, 2]), (16, [0, 1, 2]), (32, [0, 1, 1, 2])])
def test_finer_levels_take_earlier_maps(patch, taps):
    assert Unetr(UnetrArgs(width=2), (24,) * 4, ((patch,) * 3,) * 4, 1, 2).taps == taps


@pytest.mark.parametrize(
    ("strides", "sentence"),
    [
        (((4, 4, 4), (8, 8, 8)), "maps of one stride.*this encoder's are 4 x 4 x 4, 8 x 8 x 8"),
        (((12, 8, 8),) * 2, "1, 2, 4, 8, 16 .* here it is 12 x 8 x 8"),
        (((1, 1, 1),) * 2, "here it is 1 x 1 x 1"),
    ],
)
def test_maps_that_do_not_suit_are_refused(strides, sentence):
    with pytest.raises(ShapeError, match=sentence):
        Unetr(UnetrArgs(), (24, 24), strides, 1, 2)


def test_the_volume_itself_reaches_the_logits_at_full_resolution():
    """With all maps zero, two volumes that differ in one voxel give logits that differ around it."""
    model = make((8, 8, 8), (16, 16, 16))
    maps, volume = [torch.zeros(1, 24, 2, 2, 2)] * 4, torch.zeros(1, 1, 16, 16, 16)
    other = volume.clone()
    other[0, 0, 5, 9, 3] = 1
    change = (model.head(maps, other) - model.head(maps, volume)).abs().sum(1)[0]
    assert change[4:7, 8:11, 2:5].mean() > 2 * change.mean()


def test_every_map_that_is_tapped_matters():
    model = make((16, 16, 16), (16, 16, 32))
    volume = torch.randn(1, 1, 16, 16, 32)
    maps = [torch.randn(1, 24, 1, 1, 2) for _ in range(4)]
    plain = model.head(maps, volume)
    for number in range(4):
        other = [found + torch.randn(found.shape) * (i == number) for i, found in enumerate(maps)]
        assert not torch.equal(model.head(other, volume), plain)


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
    model = make((4, 4, 2), (32, 32, 32), width=8)
    run = exported(model, torch.zeros(2, 1, 32, 32, 32))
    exact = copy.deepcopy(model).double()
    for batch in (1, 2, 3):
        volumes = torch.cat([constant_air() * (1 + 0.1 * n) for n in range(batch)])
        with torch.no_grad():
            wanted = exact(volumes.double())
        assert (run(volumes) - wanted).abs().max() < 1e-4
