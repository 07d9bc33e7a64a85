"""Gradient checkpointing: blocks that forget what they computed, and compute it again when gradients need it."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the repeated blocks of a model: what its lists of modules hold, unless it is a layer or has such a list.

    So the blocks of a stage are meant, and not the stage.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [block for blocks in lists for block in blocks if _is_block(block)]


def _is_block(module: nn.Module) -> bool:
    inner = list(module.modules())[1:]
    return bool(inner) and not any(isinstance(child, nn.ModuleList) for child in inner)


def recompute_blocks(model: nn.Module) -> None:
    """Make the blocks of a model keep their inputs alone while training (Chen et al. 2016, arXiv 1604.06174).

    In evaluation, and without gradients, nothing changes. Blocks that gather statistics are left as they are, for those
    would be gathered twice. Copies made afterwards would compute with the blocks of the original.
    """
    for block in blocks_of(model):
        if not any(getattr(child, "track_running_stats", False) for child in block.modules()):
            block.forward = _recomputed(block, block.forward)


def _recomputed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def run(*inputs: Any) -> Any:
        if block.training and torch.is_grad_enabled():
            return checkpoint(forward, *inputs, use_reentrant=False)
        return forward(*inputs)

    return run
