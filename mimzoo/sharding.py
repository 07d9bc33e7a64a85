"""Weights of which every process holds a part only: fully sharded data parallel (FSDP2), where it was launched so."""

import os
from collections.abc import Mapping

from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from mimzoo.errors import MimzooError
from mimzoo.recompute import blocks_of


def plugin() -> FullyShardedDataParallelPlugin | None:
    """Return how accelerate is to shard a model, or None unless it was launched with `--use_fsdp`.

    Parts stay float32, and each repeated block is gathered by itself. Raises MimzooError for version 1.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return None
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise MimzooError("weights are sharded by version 2 of FSDP only; launch with --use_fsdp --fsdp_version 2")
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        # Computing is autocast, as in every other run; half-precision parts would round the voxels to predict as well.
        mixed_precision_policy=MixedPrecisionPolicy(),
        # Every process builds the whole model, buffers included.
        cpu_ram_efficient_loading=False,
    )


def is_sharded(accelerator: Accelerator) -> bool:
    """Return whether an accelerator shards what it prepares."""
    return bool(accelerator.is_fsdp2)


def name_blocks(accelerator: Accelerator, model: nn.Module) -> None:
    """Tell an accelerator the classes of the blocks of a model, which are to be gathered one by one."""
    names = sorted({type(block).__name__ for block in blocks_of(model)})
    accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = names


def whole(value: Tensor, device: str | None = None) -> Tensor:
    """Return all of a tensor of which every process holds a part, moved to a device if asked; any other as it is.

    Every process has to call this.
    """
    return value.full_tensor().to(device) if isinstance(value, DTensor) else value


def alike(value: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, where `like` is a part of one of its shape; else the tensor."""
    if isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value, like.device_mesh, like.placements)
    return value


def load(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load whole tensors into a module, sharded or not; every process has to call this."""
    current = module.state_dict()
    module.load_state_dict({key: alike(value, current.get(key, value)) for key, value in tensors.items()})
