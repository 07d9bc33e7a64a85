"""Resizing and pooling of maps: what torch gives, in torch and once exported, between any two sizes."""

import pytest
import torch
from graphs import exported
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from mimzoo_seg.resizing import pool, resize

SIZE = st.tuples(*[st.integers(1, 9)] * 3)


@settings(max_examples=60, deadline=None)
@given(cells=SIZE, bins=SIZE)
def test_pooling_is_the_adaptive_pooling_of_torch(cells, bins):
    x = torch.randn(2, 3, *cells, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(pool(x, bins), functional.adaptive_avg_pool3d(x, bins), atol=1e-12)


def test_gradients_of_pooling_are_those_of_torch():
    x, weights = torch.randn(1, 2, 4, 5, 6, requires_grad=True), torch.randn(1, 2, 3, 3, 2)
    ours, theirs = (
        torch.autograd.grad((make(x, (3, 3, 2)) * weights).sum(), x)[0]
        for make in (pool, functional.adaptive_avg_pool3d)
    )
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_type_of_numbers_stays(dtype):
    x = torch.randn(1, 2, 4, 4, 4).to(dtype)
    assert resize(x, (8, 8, 8)).dtype == pool(x, (3, 3, 3)).dtype == dtype


class Both(torch.nn.Module):
    """Means in bins that do not divide the grid, brought to a finer grid by factors that are not whole."""

    def forward(self, x):
        return resize(pool(x, (3, 2, 3)), (10, 8, 16))


def test_exported_they_give_what_torch_gives_for_any_number_of_samples():
    run, x = exported(Both(), torch.randn(2, 4, 5, 4, 8)), torch.randn(3, 4, 5, 4, 8)
    pooled = functional.adaptive_avg_pool3d(x.double(), (3, 2, 3))
    wanted = functional.interpolate(pooled, size=(10, 8, 16), mode="trilinear", align_corners=False)
    assert (run(x) - wanted).abs().max() < 1e-6
