"""MONAI's Swin beside ours: how its tensors are called here, and what it needs to run."""

import re

import torch
from monai.networks.nets import swin_unetr

NAMES = {
    r"patch_embed\.proj": "patch",
    r"layers(\d)c?\.0\.": lambda found: f"stages.{int(found[1]) - 1}.",
    r"layer\.conv1\.conv": "convolutions.first",
    r"layer\.conv2\.conv": "convolutions.second",
    r"attn\.relative_position_bias_table": "attention.positions",
    r"attn\.qkv": "attention.qkv",
    r"attn\.proj": "attention.out",
    r"mlp\.linear1": "mlp.0",
    r"mlp\.linear2": "mlp.2",
    r"downsample\.reduction": "merge.linear",
    r"downsample\.norm": "merge.norm",
}


def replace_einops(monkeypatch):
    """MONAI's Swin moves axes by einops, which nothing else here needs: "b c d -> b d c"."""

    def rearrange(x, pattern):
        before, after = (side.split() for side in pattern.split("->"))
        return x.permute([before.index(axis) for axis in after])

    monkeypatch.setattr(swin_unetr, "rearrange", rearrange)


def randomise(module):
    """The module with every parameter random, the tables of relative positions so that they matter."""
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        parameter.data += (1.0 if "position" in name else 0.1) * torch.randn_like(parameter)
    return module.eval()


def renamed(state):
    """MONAI's state dict under our names."""
    for theirs, ours in NAMES.items():
        state = {re.sub(theirs, ours, key): value for key, value in state.items()}
    return {key: value for key, value in state.items() if "relative_position_index" not in key}


def sort_corners(encoder):
    """Bring an encoder's mergings from the raster order of MONAI's "mergingv2" to the order of its "merging"."""
    for stage in encoder.stages:
        for parameter in stage.merge.parameters():
            # (..., 8 D) -> (..., 8, D), of which theirs are in raster order
            parameter.data = parameter.data.unflatten(-1, (8, -1))[..., [0, 4, 2, 1, 6, 5, 3, 7], :].flatten(-2)
