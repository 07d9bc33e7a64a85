"""The light head: the sum of all maps on the finest grid, its refusals, and its export."""

import copy

import pytest
import torch
from graphs import constant_air, exported
from torch.nn import functional

from mimzoo.errors import ShapeError
from mimzoo.models import TaskModel
from mimzoo.norms import Norm
from mimzoo_seg.args import ConvolutionArgs
from mimzoo_seg.convolution import Convolution
from mimzoo_vit.args import VitArgs
from mimzoo_vit.encoder import VisionTransformer


def make_head(strides, channels=None, classes=3, **args):
    torch.manual_seed(0)
    channels = channels or (8,) * len(strides)
    return Convolution(ConvolutionArgs(**{"width": 8, **args}), channels, strides, 1, classes).eval()


def make_model(patch, crop, classes=3):
    torch.manual_seed(0)
    encoder = VisionTransformer(VitArgs(patch=patch, width=24, depth=4, heads=2), 1, crop)
    return TaskModel(encoder, make_head(encoder.strides, encoder.channels, classes)).eval()


def resized(x, size):
    return functional.interpolate(x, size=size, mode="trilinear", align_corners=False)


@pytest.mark.parametrize("strides", [((2, 2, 2), (4, 4, 4), (12, 12, 12)), ((2, 2, 1), (4, 4, 1)), ((6, 6, 3),) * 3])
def test_all_maps_are_summed_on_the_finest_grid_and_convolved_once(strides):
    channels, size = (4, 6, 8)[: len(strides)], (24, 12, 12)
    head = make_head(strides, channels)
    grids = [tuple(n // s for n, s in zip(size, stride, strict=True)) for stride in strides]
    maps = [torch.randn(2, c, *grid) for c, grid in zip(channels, grids, strict=True)]
    with torch.no_grad():
        levels = [resized(lateral(found), grids[0]) for lateral, found in zip(head.laterals, maps, strict=True)]
        wanted = resized(head.logits(head.refine(torch.stack(levels).sum(0))), size)
        assert torch.allclose(head(maps, torch.zeros(2, 1, *size)), wanted, atol=1e-5)


def test_a_map_matters_only_near_its_own_cells_when_nothing_is_normed(monkeypatch):
    """The light head does not look far: what it knows of the whole crop, the encoder has put into the maps."""
    head = make_head(((2, 2, 2), (4, 4, 4)))
    monkeypatch.setattr(Norm, "forward", lambda norm, x: x)
    maps = [torch.zeros(1, 8, 16, 16, 16), torch.zeros(1, 8, 8, 8, 8)]
    other = [maps[0], maps[1].clone()]
    other[1][..., 0, 0, 0] = 1
    volume = torch.zeros(1, 1, 32, 32, 32)
    change = (head(other, volume) - head(maps, volume)).abs().sum(1)[0]
    assert change[:4, :4, :4].max() > 0
    assert change[16:].max() == change[:, 16:].max() == change[:, :, 16:].max() == 0


def test_strides_that_do_not_divide_are_refused():
    with pytest.raises(ShapeError, match="the convolution head takes maps .* are 4 x 4 x 4, 6 x 6 x 6; choose other"):
        make_head(((4, 4, 4), (6, 6, 6)))


def test_a_single_cell_is_refused_with_instance_norm_and_taken_with_group_norm():
    strides, maps, volume = ((8, 8, 8),) * 2, [torch.randn(1, 8, 1, 1, 1)] * 2, torch.zeros(1, 1, 8, 8, 8)
    with pytest.raises(ShapeError, match="single cell of the finest level of the convolution head.* norm=group"):
        make_head(strides)(maps, volume)
    assert make_head(strides, norm="group")(maps, volume).isfinite().all()


def test_it_learns_to_segment_what_it_is_shown():
    model, volume = make_model((4, 4, 4), (16, 16, 16), classes=2).train(), torch.rand(1, 1, 16, 16, 16)
    labels = (resized(functional.avg_pool3d(volume, 8), (16, 16, 16)) > volume.mean())[:, 0].long()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        functional.cross_entropy(model(volume), labels).backward()
        optimiser.step()
    assert (model(volume).argmax(1) == labels).float().mean() > 0.9


def test_an_exported_segmenter_agrees_with_float64_on_constant_air_at_any_batch():
    model = make_model((4, 4, 8), (32, 32, 32))
    run, exact = exported(model, torch.zeros(2, 1, 32, 32, 32)), copy.deepcopy(model).double()
    for batch in (1, 2, 3):
        volumes = torch.cat([constant_air() * (1 + 0.1 * n) for n in range(batch)])
        with torch.no_grad():
            wanted = exact(volumes.double())
        assert (run(volumes) - wanted).abs().max() < 1e-4
