"""Convolutions in bfloat16 on a CPU: right where oneDNN's are not, and otherwise those of torch."""

import copy

import pytest
import torch
from torch import nn

from mimzoo.convolutions import make_wary

# Layers that gave arbitrary gradients on a processor with AMX, and the cells that they did it on.
SHAPES = [
    ({"kernel_size": 3, "stride": 2, "padding": 1}, (4, 4, 1)),
    ({"kernel_size": 3, "padding": 1, "groups": 16}, (2, 2, 2)),
    ({"kernel_size": 5, "padding": 2, "groups": 16}, (3, 3, 5)),
    ({"kernel_size": 7, "padding": 3, "groups": 16}, (5, 5, 5)),
    ({"kernel_size": 3, "stride": 2, "padding": 1}, (5, 5, 2)),
]


def soil():
    """Leave large numbers in the memory that is about to be used again."""
    for size in (64, 256, 1024, 4096, 16384, 65536):
        for _ in range(4):
            torch.full((size,), 1e30)


def gradients(layer, volume):
    """Return the result of a layer and the gradients of its input and weight, from ones."""
    volume = volume.detach().requires_grad_()
    result = layer(volume)
    found = torch.autograd.grad(result, (volume, layer.weight), torch.ones_like(result))
    return [result, *found]


@pytest.mark.parametrize(("options", "cells"), SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_small_inputs_give_the_gradients_of_float64(options, cells, layout):
    torch.manual_seed(0)
    layer = nn.Conv3d(16, 16, **options)
    volume = torch.randn(2, 16, *cells).contiguous(memory_format=layout)
    wanted = gradients(copy.deepcopy(layer).double(), volume.double())
    model = nn.Sequential(layer)
    make_wary(model)
    for _ in range(3):
        soil()
        with torch.autocast("cpu", torch.bfloat16):
            found = gradients(model[0], volume)
        for one, other in zip(found, wanted, strict=True):
            assert (one.double() - other).abs().max() <= 1e-4 * other.abs().max()


def test_other_inputs_are_computed_in_bfloat16_and_names_stay():
    model = nn.Sequential(nn.Conv3d(2, 3, 3), nn.Conv3d(3, 3, 7, dilation=3, padding=9))
    names = list(model.state_dict())
    make_wary(model)
    assert list(copy.deepcopy(model).state_dict()) == names
    with torch.autocast("cpu", torch.bfloat16):
        assert model[0](torch.rand(1, 2, 3, 3, 3)).dtype == torch.bfloat16
        assert model[1](torch.rand(1, 3, 4, 4, 4)).dtype == torch.bfloat16
    assert model[0](torch.rand(1, 2, 3, 3, 3)).dtype == torch.float32
