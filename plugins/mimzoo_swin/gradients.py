"""Attention within windows whose gradient is frugal: it computes the weights once more instead of keeping them."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mimzoo_swin.windows import Group, Layout

# How many logits the gradient works on at once: about 1 MiB of them, which stays in a CPU's cache.
CACHED = 2**18


def attend(qkv: Tensor, bias: Tensor, windows: Layout) -> Tensor:
    """Return the cells (B, N, D) after attention, in which each cell attends to all of its window, padding included.

    `qkv` is (B, N, 3 D), or (B, N + 1, 3 D) with what stands for padding in the end; `bias` (heads, n, n) is added.
    """
    batch, heads = qkv.shape[0], bias.shape[0]
    # (B, N, 3 D) -> (B, W n, 3 D) -> (B, W, n, 3, heads, d)
    split = qkv.index_select(1, windows.cells.flatten()).reshape(batch, windows.count, windows.size, 3, heads, -1)
    mixed = []
    for group in windows.groups:
        # (B, w, n, 3, heads, d) -> (B w, n, 3, heads, d) -> (3, B w, heads, n, d)
        q, k, v = split[:, group.start : group.stop].flatten(0, 1).permute(2, 0, 3, 1, 4).unbind(0)
        q, added = _take(q, 2, group.asking), _group_bias(bias, group).to(q.dtype)
        found = functional.scaled_dot_product_attention(q, k, v, attn_mask=added[None])
        # The kernels of attention lay out their results differently; a copy lets an exported graph do with any.
        cells = found.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        # (B w, m, heads, d) -> (B, w m, D)
        mixed.append(cells.reshape(batch, (group.stop - group.start) * q.shape[2], -1))
    return torch.cat(mixed, dim=1).index_select(1, windows.back)


def _take(values: Tensor, axis: int, index: Tensor | None) -> Tensor:
    return values if index is None else values.index_select(axis, index)


def _group_bias(bias: Tensor, group: Group) -> Tensor:
    """Return what is added to the logits (heads, m, n) in a group of windows."""
    asking = _take(bias, 1, group.asking)
    return asking if group.mask is None else asking + group.mask


class FrugalAttention(torch.autograd.Function):
    """`attend`, whose gradient computes the weights of attention once more, a few heads of one window at a time.

    (The idea of FlashAttention, Dao et al. 2022, arXiv 2205.14135.) Where the bias is learned torch keeps the weights
    of all windows, gigabytes that a CPU writes and reads several times; this way they never leave its cache.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, windows: Layout) -> Tensor:
        """Return what `attend` does."""
        out = attend(qkv.detach(), bias.detach(), windows)
        ctx.save_for_backward(qkv, bias, out)
        ctx.windows = windows
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of `qkv` and `bias`."""
        qkv, bias, out = ctx.saved_tensors
        # Under autocast the products would come out in bfloat16.
        with torch.autocast(qkv.device.type, enabled=False):
            gradients = Gradients(qkv, bias, out, given)
            for group in ctx.windows.groups:
                gradients.add(group, ctx.windows.cells[group.start : group.stop])
        return gradients.to_qkv.reshape(qkv.shape).to(qkv.dtype), gradients.to_bias.to(bias.dtype), None


class Gradients:
    """The gradients of `attend` at `qkv` (B, N, 3 D), `bias` and its result `out` (B, N, D), of which one is `given`.

    Groups of windows are added one by one to `to_qkv` (B N, 3, heads, d) and `to_bias` (heads, n, n).
    """

    def __init__(self, qkv: Tensor, bias: Tensor, out: Tensor, given: Tensor) -> None:
        # bfloat16 is too coarse to sum the gradient of the bias over hundreds of windows.
        exact = torch.promote_types(qkv.dtype, torch.float32)
        self.bias, self.count = bias.to(exact), qkv.shape[1]
        # What stands for padding asks for nothing, so that no gradient is given for it.
        padding = (0, 0, 0, self.count - out.shape[1])
        # (B, N, D) -> (B N, 1, heads, d) and (B, N, 3 D) -> (B N, 3, heads, d), joined to (B N, 4, heads, d)
        out, given, qkv = (
            part.to(exact).reshape(-1, count, len(bias), part.shape[2] // len(bias) // count)
            for part, count in ((functional.pad(out, padding), 1), (functional.pad(given, padding), 1), (qkv, 3))
        )
        self.rows = torch.cat([qkv, given], dim=1)
        # (B N, 1, heads, d) -> (B N, heads, 1)
        self.products = (given * out).sum(-1).transpose(1, 2)
        self.to_qkv, self.to_bias = torch.zeros_like(qkv), torch.zeros_like(self.bias)

    def add(self, group: Group, cells: Tensor) -> None:
        """Add the gradients of a group of windows, `cells` (w, n) their raster indices in every sample."""
        bias = _group_bias(self.bias, group)
        to_bias = torch.zeros_like(bias)
        # (B, 1, 1) + (w, n) -> (B w, n)
        samples = torch.arange(0, len(self.rows), self.count)[:, None, None]
        for window in (samples + cells).flatten(0, 1):
            self._add_window(window, group.asking, bias, to_bias)
        if group.asking is None:
            self.to_bias += to_bias
        else:
            self.to_bias.index_add_(1, group.asking, to_bias)

    def _add_window(self, window: Tensor, asking: Tensor | None, bias: Tensor, to_bias: Tensor) -> None:
        # (n, 4, heads, d) -> (4, heads, n, d)
        q, k, v, given = self.rows.index_select(0, window).permute(1, 2, 0, 3)
        cells = _take(window, 0, asking)
        # (m, heads, 1) -> (heads, m, 1)
        product = self.products.index_select(0, cells).transpose(0, 1)
        parts = (_take(q, 1, asking), k, v, _take(given, 1, asking), product, bias, to_bias)
        step = 1 + CACHED // bias[0].numel()
        found = [_gradients(*part) for part in zip(*(part.split(step) for part in parts), strict=True)]
        to_q, to_k, to_v = (torch.cat(heads) for heads in zip(*found, strict=True))
        # (heads, d, m) -> (m, heads, d); (2, heads, d, n) -> (n, 2, heads, d)
        self.to_qkv[:, 0].index_add_(0, cells, to_q.permute(2, 0, 1))
        self.to_qkv[:, 1:].index_add_(0, window, torch.stack([to_k, to_v]).permute(3, 0, 1, 2))


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, given: Tensor, product: Tensor, bias: Tensor, to_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q (heads, d, m), k and v (heads, d, n) of some heads, and add that of their bias."""
    scale = q.shape[-1] ** -0.5
    weights = torch.baddbmm(bias, q, k.mT, alpha=scale).softmax(-1)
    to_v = given.mT.bmm(weights)
    # (P (dP - sum(P dP))), of which the sum is that of the result and its gradient
    logits = torch.baddbmm(product, given, v.mT, beta=-1).mul_(weights)
    to_bias += logits
    # Products with few rows are up to twice as fast as those with few columns: (d, n) (n, m), not (m, n) (n, d).
    return k.mT.bmm(logits.mT).mul_(scale), q.mT.bmm(logits).mul_(scale), to_v
