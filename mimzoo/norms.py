"""Normalisation of feature maps that stays accurate after export, and that can look at visible positions only."""

import torch
from torch import Tensor, nn
from torch.nn import functional

PER_GROUP = 8
FAR_BELOW = -1e30
EPSILON = 1e-5


class Norm(nn.Module):
    """Instance norm (every channel by itself) or group norm (8 channels together), with a learned scale and shift.

    Ulyanov et al. 2016, arXiv 1607.08022, and Wu and He 2018, arXiv 1803.08494.

    ONNX Runtime sums a whole volume into one float32, by InstanceNormalization and by ReduceMean over three axes alike:
    on a volume that is mostly air its result is off by 1e-2 where torch is off by 1e-6. So the exported form takes
    the means one axis after the other, which is as accurate as torch; elsewhere torch's own kernel is the fastest.
    OpenVINO would make one sum of these three again, were they not kept apart, see `_mean`.
    """

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        self.groups = channels // PER_GROUP if kind == "group" and channels % PER_GROUP == 0 else channels
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return x (B, C, X, Y, Z) with zero mean and unit variance within each group, scaled and shifted.

        With `visible` (B, 1, X, Y, Z) bool the statistics are those of the visible positions, and the others become 0.
        """
        if visible is not None or torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
            return self.explicit(x, visible)
        # Not torch.nn.functional's, which refuses a single cell of a single sample.
        return torch.group_norm(x, self.groups, self.weight, self.bias, EPSILON)

    def explicit(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Return the same as `forward`, in two passes whose sums run over one axis at a time, at least in float32."""
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        seen = None if visible is None else visible.to(precise.dtype)
        centred = precise - self._mean(precise, seen)
        scale = torch.rsqrt(self._mean(centred * centred, seen) + EPSILON) * self.weight.view(1, -1, 1, 1, 1)
        normed = centred * scale + self.bias.view(1, -1, 1, 1, 1)
        return (normed if seen is None else normed * seen).to(x.dtype)

    def _mean(self, x: Tensor, seen: Tensor | None) -> Tensor:
        means = _mean(x) if seen is None else _mean(x * seen) / _mean(seen)
        if self.groups == x.shape[1]:
            return means
        # (B, C, 1, 1, 1) -> (B, groups, C / groups) -> the group's mean for each of its channels (B, C, 1, 1, 1)
        grouped = means.reshape(x.shape[0], self.groups, -1)
        return grouped.mean(2, keepdim=True).expand_as(grouped).reshape(x.shape[0], -1, 1, 1, 1)


class InstanceNorm(nn.Module):
    """Instance norm without scale and shift, as accurate once exported as `Norm` is."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, C, X, Y, Z) with zero mean and unit variance in every channel of every sample."""
        if not (torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()):
            return functional.instance_norm(x, eps=EPSILON)
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        centred = precise - _mean(precise)
        return (centred * torch.rsqrt(_mean(centred * centred) + EPSILON)).to(x.dtype)


def _mean(x: Tensor) -> Tensor:
    # A bound that no mean reaches is what OpenVINO does not sum across.
    for axis in (4, 3, 2):
        x = x.mean(axis, keepdim=True).clamp(min=FAR_BELOW)
    return x
