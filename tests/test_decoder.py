"""The convolution decoder, beyond what conformance asks."""

import pytest
import torch

from mimzoo.errors import ShapeError
from mimzoo.registry import find
from mimzoo.testing.common import half_mask
from mimzoo.tokens import Tokens, visible_index


def build(patch=(4, 4, 2), crop=(16, 16, 8), width=16):
    spec = find("decoder", "convolution")
    torch.manual_seed(0)
    return spec.load()(spec.check({"width": 8}), width, patch, crop, 2).eval()


def tokens(mask, dropped):
    count = visible_index(mask).shape[1] if dropped else mask[0].numel()
    values = torch.randn(mask.shape[0], count, 16, generator=torch.Generator().manual_seed(1))
    return Tokens(values, mask, (4, 4, 2), dropped)


@pytest.mark.parametrize("dropped", [True, False])
def test_a_hidden_cell_is_predicted_from_its_neighbours(dropped):
    """Changing one visible token changes the prediction of the cell beside it more than of the far ones: locality."""
    decoder, mask = build(crop=(4, 4, 32)), torch.ones(1, 1, 1, 16, dtype=torch.bool)
    mask[..., 0] = False
    given = tokens(mask, dropped)
    other = Tokens(given.values.clone(), mask, given.patch, dropped)
    other.values[:, 0] += 5
    with torch.no_grad():
        moved = (decoder(given) - decoder(other)).abs().amax(dim=(0, 2))
    assert moved[0] > 4 * moved[-1]


def test_visible_tokens_land_in_their_own_cells():
    """Dropped and complete tokens with the same visible values differ only through what stands in the hidden cells."""
    decoder, mask = build(), half_mask((4, 4, 4))
    given = tokens(mask, True)
    complete = torch.zeros(2, 64, 16)
    complete.scatter_(1, visible_index(mask)[:, :, None].expand(-1, -1, 16), given.values)
    with torch.no_grad():
        decoder.project.bias.zero_()
        assert torch.allclose(decoder(given), decoder(Tokens(complete, mask, given.patch, False)), atol=1e-5)


def test_a_patch_that_does_not_divide_the_crop_is_refused():
    with pytest.raises(ShapeError, match="the crop 16 x 16 x 8 is not divisible by the token's patch 5 x 4 x 2"):
        build(patch=(5, 4, 2))
