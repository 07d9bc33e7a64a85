"""What every reconstruction decoder must do."""

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any

import torch
from torch import nn

from mimzoo.registry import find
from mimzoo.testing.common import CHANNELS, cells, check_module, check_refused, half_mask, require
from mimzoo.tokens import Size, Tokens, hidden_index, visible_index


def check_decoder(name: str, args: Mapping[str, Any] | None = None) -> None:
    """Check the registered reconstruction decoder `name` on small tokens; raise AssertionError if it fails.

    In each of its modes: shapes on two grids, gradients, bfloat16, a round trip, and that samples do not mix.
    """
    spec = find("decoder", name)
    patch, crop, width = (8, 8, 4), (32, 32, 16), 48

    def build() -> nn.Module:
        torch.manual_seed(0)
        decoder: nn.Module = spec.load()(spec.check(args or {}), width, patch, crop, CHANNELS)
        return decoder.eval()

    for mode in ("drop", "replace"):
        if mode in spec.modes:
            _check_mode(name, build, (crop, patch, width), mode)
        else:
            refused = partial(build(), _tokens(cells(crop, patch), patch, width, mode))
            check_refused(name, refused, f"tokens of mode {mode!r}, not among its modes,")


def _check_mode(name: str, build: Callable[[], nn.Module], sizes: tuple[Size, Size, int], mode: str) -> None:
    crop, patch, width = sizes
    tokens = _tokens(cells(crop, patch), patch, width, mode)
    check_module(name, build, lambda decoder: decoder(tokens))
    for grid in (cells(crop, patch), (2, 1, 3)):
        _check_prediction(name, build(), _tokens(grid, patch, width, mode))


def _tokens(grid: Size, patch: Size, width: int, mode: str) -> Tokens:
    mask, dropped = half_mask(grid), mode == "drop"
    count = visible_index(mask).shape[1] if dropped else prod(grid)
    values = torch.randn(2, count, width, generator=torch.Generator().manual_seed(5))
    return Tokens(values, mask, patch, dropped)


@torch.no_grad()
def _check_prediction(name: str, decoder: nn.Module, tokens: Tokens) -> None:
    predicted = decoder(tokens)
    wanted = (2, hidden_index(tokens.mask).shape[1], CHANNELS * prod(tokens.patch))
    given = tuple(predicted.shape)
    require(given == wanted, name, f"its prediction has the shape {given}, not (B, hidden, C px py pz) = {wanted}")
    first = decoder(Tokens(tokens.values[:1], tokens.mask[:1], tokens.patch, tokens.dropped))
    require(torch.allclose(first, predicted[:1], atol=1e-4), name, "a sample's prediction depends on the others")
