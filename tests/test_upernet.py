"""The UPerNet head: the method, on pyramids and plain maps of any strides that divide, and its export."""

import copy

import pytest
import torch
from graphs import constant_air, exported
from torch.nn import functional

from mimzoo.errors import ShapeError
from mimzoo.models import TaskModel
from mimzoo_seg.args import UperNetArgs
from mimzoo_seg.upernet import PyramidPooling, UperNet
from mimzoo_vit.args import VitArgs
from mimzoo_vit.encoder import VisionTransformer

PYRAMID = ((2, 2, 2), (4, 4, 4), (8, 8, 8), (16, 16, 16))


def make_head(strides, channels=None, classes=3, **args):
    torch.manual_seed(0)
    channels = channels or (8,) * len(strides)
    return UperNet(UperNetArgs(**{"width": 8, **args}), channels, strides, 1, classes).eval()


def make_maps(head_channels, strides, size):
    torch.manual_seed(1)
    return [
        torch.randn(2, c, *(n // s for n, s in zip(size, stride, strict=True)))
        for c, stride in zip(head_channels, strides, strict=True)
    ]


def vit(patch, crop):
    torch.manual_seed(0)
    return VisionTransformer(VitArgs(patch=patch, width=24, depth=4, heads=2), 1, crop)


class Pyramid(torch.nn.Module):
    """The plainest pyramid: convolutions of the volume at several resolutions."""

    channels, strides = (8, 12, 16, 24), PYRAMID

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.maps = torch.nn.ModuleList(torch.nn.Conv3d(1, width, 3, padding=1) for width in self.channels)

    def forward(self, volume):
        means = [functional.avg_pool3d(volume, stride) for stride in self.strides]
        return [conv(mean) for conv, mean in zip(self.maps, means, strict=True)]


def model_of(encoder, classes=3, **args):
    return TaskModel(encoder, make_head(encoder.strides, encoder.channels, classes, **args)).eval()


def resized(x, size):
    return functional.interpolate(x, size=tuple(size), mode="trilinear", align_corners=False)


def by_the_paper(head, maps, size):
    """UPerNet written out with torch's own pooling and resizing, on the weights of a head that takes pyramids."""
    top = maps[-1]
    pooled = [
        resized(branch(functional.adaptive_avg_pool3d(top, [min(bins, n) for n in top.shape[2:]])), top.shape[2:])
        for branch, bins in zip(head.context.bins, (1, 2, 3, 6), strict=True)
    ]
    above = head.context.join(torch.cat([top, *pooled], 1))
    levels = [above]
    for lateral, found in reversed(list(zip(head.laterals, maps, strict=False))):
        above = lateral(found) + resized(above, found.shape[2:])
        levels.insert(0, above)
    outs = [refine(level) for refine, level in zip(head.refine, levels, strict=False)] + [levels[-1]]
    fused = head.fuse(torch.cat([resized(out, maps[0].shape[2:]) for out in outs], 1))
    return resized(head.logits(fused), size)


@pytest.mark.parametrize("size", [(32, 32, 32), (48, 80, 16), (112, 16, 48)])
def test_on_a_pyramid_it_is_the_method_of_the_paper(size):
    channels = (8, 12, 16, 24)
    head, maps = make_head(PYRAMID, channels), make_maps(channels, PYRAMID, size)
    with torch.no_grad():
        found = head(maps, torch.zeros(2, 1, *size))
        assert torch.allclose(found, by_the_paper(head, maps, size), atol=1e-4)


@pytest.mark.parametrize(
    ("patch", "finest"),
    [
        ((16, 16, 16), (4, 4, 4)),
        ((8, 8, 4), (2, 2, 1)),
        ((1, 4, 2), (1, 1, 1)),
        ((12, 6, 5), (3, 3, 5)),
    ],
)
def test_maps_of_one_stride_become_a_pyramid_as_far_as_the_stride_allows(patch, finest):
    size = tuple(2 * n for n in patch)
    head, maps, seen = make_head((patch,) * 4), make_maps((8,) * 4, (patch,) * 4, size), []
    head.fuse.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    assert head(maps, torch.zeros(2, 1, *size)).shape == (2, 3, *size)
    assert seen == [(2, 32, *(n // f for n, f in zip(size, finest, strict=True)))]


def grids_of_levels(head, strides, size):
    """The grid of every level that is refined, finest first."""
    seen = []
    for refine in head.refine:
        refine.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape[2:])))
    head(make_maps((8,) * len(strides), strides, size), torch.zeros(2, 1, *size))
    return seen


@pytest.mark.parametrize(
    ("count", "grids"),
    [
        (2, [(4, 4, 4)]),
        (3, [(8, 8, 8), (4, 4, 4)]),
        (4, [(8, 8, 8), (4, 4, 4), (2, 2, 2)]),
        (5, [(8, 8, 8), (4, 4, 4), (2, 2, 2), (2, 2, 2)]),
    ],
)
def test_earlier_maps_of_a_plain_transformer_become_finer_levels(count, grids):
    strides = ((8, 8, 8),) * count
    assert grids_of_levels(make_head(strides), strides, (16, 16, 16)) == grids


def test_a_single_map_is_enough():
    head = make_head(((4, 4, 4),))
    assert head([torch.randn(1, 8, 2, 3, 2)], torch.zeros(1, 1, 8, 12, 8)).shape == (1, 3, 8, 12, 8)


@pytest.mark.parametrize("strides", [((1, 1, 1), (1, 2, 2), (2, 4, 4)), ((4, 4, 4), (8, 8, 8)), ((3, 3, 3), (6, 3, 3))])
def test_strides_need_only_divide_one_another(strides):
    head, size = make_head(strides), tuple(3 * n for n in strides[-1])
    assert head(make_maps((8,) * len(strides), strides, size), torch.zeros(2, 1, *size)).shape == (2, 3, *size)


@pytest.mark.parametrize(
    ("strides", "given"),
    [
        (((4, 4, 4), (6, 6, 6)), "4 x 4 x 4, 6 x 6 x 6"),
        (((2, 2, 2), (4, 4, 1)), "2 x 2 x 2, 4 x 4 x 1"),
        (((8, 8, 8), (4, 4, 4)), "8 x 8 x 8, 4 x 4 x 4"),
    ],
)
def test_strides_that_do_not_divide_are_refused(strides, given):
    with pytest.raises(ShapeError, match=f"the upernet head takes maps .* divides the next, .* are {given}; choose"):
        make_head(strides)


def test_a_single_cell_is_refused_with_instance_norm_and_taken_with_group_norm():
    strides, maps, volume = ((8, 8, 8),), [torch.randn(1, 8, 1, 1, 1)], torch.zeros(1, 1, 8, 8, 8)
    with pytest.raises(ShapeError, match="single cell of the finest level of the upernet head.* norm=group"):
        make_head(strides)(maps, volume)
    assert make_head(strides, norm="group")(maps, volume).isfinite().all()


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_single_cells_are_taken_where_finer_levels_have_more(norm):
    maps = [torch.randn(1, 8, 1, 1, 1) for _ in range(4)]
    logits = make_head(((8, 8, 8),) * 4, norm=norm)(maps, torch.zeros(1, 1, 8, 8, 8))
    assert logits.isfinite().all() and logits.std() > 0


def test_pooling_carries_one_corner_to_the_other():
    """Convolutions over 3 cells reach the neighbours of a corner alone."""
    torch.manual_seed(0)
    context, x = PyramidPooling(4, 8), torch.zeros(1, 4, 7, 7, 7)
    other = x.clone()
    other[..., 0, 0, 0] = 1

    def far():
        return (context(other) - context(x))[..., -1, -1, -1].abs().max()

    assert far() > 0
    for branch in context.bins:
        branch[0].weight.data.zero_()
    assert far() == 0


def test_it_learns_to_segment_what_it_is_shown():
    model, volume = model_of(Pyramid(), classes=2, norm="group").train(), torch.rand(1, 1, 16, 16, 16)
    labels = (resized(functional.avg_pool3d(volume, 8), (16, 16, 16)) > volume.mean())[:, 0].long()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        functional.cross_entropy(model(volume), labels).backward()
        optimiser.step()
    assert (model(volume).argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize(
    ("encoder", "size"), [(vit((8, 8, 8), (32, 32, 32)), 32), (Pyramid(), 48)], ids=["plain", "pyramid"]
)
def test_an_exported_segmenter_agrees_with_float64_on_constant_air_at_any_batch(encoder, size):
    """The coarsest grids have 4 and 3 cells, which 3 and 2 bins do not divide."""
    model = model_of(encoder)
    run, exact = exported(model, torch.zeros(2, 1, size, size, size)), copy.deepcopy(model).double()
    for batch in (1, 2, 3):
        volumes = torch.cat([constant_air(size) * (1 + 0.1 * n) for n in range(batch)])
        with torch.no_grad():
            wanted = exact(volumes.double())
        assert (run(volumes) - wanted).abs().max() < 1e-4
