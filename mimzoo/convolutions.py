"""Convolutions that stay right in bfloat16 on a CPU, where some of oneDNN read memory that is not theirs."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn


class WaryConvolution(nn.Conv3d):
    """A convolution that autocast leaves in float32 where its kernel is longer than the input along an axis.

    With AMX, torch 2.13 (oneDNN) computes arbitrary gradients of the weight for many such shapes, and wrong results for
    a few: 3^3 with stride 2 on a single cell along Z, depthwise 3^3 on 2 x 2 x 2 cells whose channels come last, and
    more; with other shapes none were found.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        small = any(cells < size for cells, size in zip(input.shape[2:], self.kernel_size, strict=True))
        exact = small and torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", enabled=False) if exact else nullcontext():
            result: Tensor = super()._conv_forward(input.float() if exact else input, weight, bias)
        return result


def make_wary(model: nn.Module) -> None:
    """Make the convolutions of a model wary; weights and names stay. Dilated ones are right, and stay as they are."""
    for module in model.modules():
        if type(module) is nn.Conv3d and set(module.dilation) == {1}:
            module.__class__ = WaryConvolution
