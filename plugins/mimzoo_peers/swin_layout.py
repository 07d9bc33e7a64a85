"""How MONAI's Swin UNETR calls its tensors, and what their shapes say of the encoder."""

import re
from collections.abc import Mapping
from itertools import product
from math import prod

import torch
from torch import Tensor

from mimzoo.checkpoints import Rule, count
from mimzoo.errors import WeightsError
from mimzoo.recipes import Component
from mimzoo.tokens import Size
from mimzoo_peers.describe import nearest
from mimzoo_swin.stage import CORNERS
from mimzoo_swin.windows import layout

STAGES = (1, 2, 3, 4)
# A file calls the two layers of a perceptron by either pair of names.
BLOCK = {
    "norm1": "norm1",
    r"attn\.qkv": "attention.qkv",
    r"attn\.proj": "attention.out",
    "norm2": "norm2",
    r"mlp\.(?:linear|fc)1": "mlp.0",
    r"mlp\.(?:linear|fc)2": "mlp.2",
}
ENCODERS = ("swin-tiny", "swin-small", "swin-base")
CPU = torch.device("cpu")


def encoder_rules(root: str) -> list[Rule]:
    """Return the rules for MONAI's Swin, v1 or v2, below the names that the pattern `root` matches: `encoder.*`."""
    rules = [Rule(rf"{root}patch_embed\.proj\.(weight|bias)", r"encoder.patch.\1")]
    for number in STAGES:
        stage, ours = rf"{root}layers{number}", f"encoder.stages.{number - 1}"
        block = rf"{stage}\.0\.blocks\.(\d+)"
        rules += [
            Rule(rf"{block}\.{name}\.(weight|bias)", rf"{ours}.blocks.\1.{new}.\2") for name, new in BLOCK.items()
        ]
        rules += [
            Rule(rf"{block}\.attn\.relative_position_bias_table", rf"{ours}.blocks.\1.attention.positions"),
            Rule(rf"{block}\.attn\.relative_position_index", None, "is rebuilt"),
            Rule(rf"{stage}\.0\.downsample\.norm\.(weight|bias)", rf"{ours}.merge.norm.\1"),
            Rule(rf"{stage}\.0\.downsample\.reduction\.weight", f"{ours}.merge.linear.weight"),
            Rule(rf"{stage}c\.0\.layer\.conv1\.conv\.weight", f"{ours}.convolutions.first.weight"),
            Rule(rf"{stage}c\.0\.layer\.conv2\.conv\.weight", f"{ours}.convolutions.second.weight"),
        ]
    return rules


def head_rules(root: str) -> list[Rule]:
    """Return the rules for the decoder of Swin UNETR below the names that the pattern `root` matches: `head.*`."""
    blocks = {r"encoder1\.layer": "skips.0", r"encoder10\.layer": "bottom"}
    blocks |= {rf"encoder{number}\.layer": f"skips.{number - 1}" for number in (2, 3, 4)}
    blocks |= {rf"decoder{number}\.conv_block": f"blocks.{number - 1}" for number in range(1, 6)}
    return [
        *(Rule(rf"{root}{name}\.(conv[123])\.conv\.weight", rf"head.{new}.\1.weight") for name, new in blocks.items()),
        *(
            Rule(rf"{root}decoder{number}\.transp_conv\.conv\.weight", f"head.ups.{number - 1}.weight")
            for number in range(1, 6)
        ),
        Rule(rf"{root}out\.conv\.conv\.(weight|bias)", r"head.logits.\1"),
    ]


def add_norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a head with its instance norms, which have no parameters in MONAI: scale 1 and shift 0."""
    norms = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(head\..+)\.conv([123])\.weight", name):
            norms[f"{match[1]}.norm{match[2]}.weight"] = tensor.new_ones(len(tensor))
            norms[f"{match[1]}.norm{match[2]}.bias"] = tensor.new_zeros(len(tensor))
    return {**tensors, **norms}


def sort_corners(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with those of mergings brought from the order of MONAI's "mergingv2" to that of "merging".

    Its eighths belong to the corners of a cube in raster order.
    """
    order = [int(corner, 2) for corner in CORNERS["fixed"]]
    return {name: _reorder(tensor, order) if ".merge." in name else tensor for name, tensor in tensors.items()}


def _reorder(tensor: Tensor, order: list[int]) -> Tensor:
    # (..., 8 D) -> (..., 8, D) -> (..., 8 D)
    return torch.unflatten(tensor, -1, (8, -1))[..., order, :].flatten(-2)


def find_encoder(state: Mapping[str, Tensor], merge: str) -> tuple[Component, int]:
    """Return the encoder that the shapes of MONAI's Swin ask for, under any prefix, and its number of input channels.

    Raises WeightsError where a tensor that tells of it is missing, or its windows are none that the file names.
    """
    embedding = _ending(state, "patch_embed.proj.weight")
    if embedding.dim() != 5:
        raise WeightsError("it is a network for images: its patches have two axes, and volumes have three")
    width, channels, *patch = embedding.shape
    tables = [_ending(state, f"layers{n}.0.blocks.0.attn.relative_position_bias_table") for n in STAGES]
    hidden = _ending(state, *(f"layers1.0.blocks.0.mlp.{name}.weight" for name in ("linear1", "fc1")))
    args = {
        "patch": patch,
        "width": width,
        "depths": [count(state, rf".*layers{n}\.0\.blocks\.(\d+)\.") for n in STAGES],
        "heads": [table.shape[1] for table in tables],
        "window": find_window(len(tables[0]), state),
        "mlp_ratio": len(hidden) / width,
        "qkv_bias": _has(state, r"layers1\.0\.blocks\.0\.attn\.qkv\.bias"),
        "merge": "legacy" if merge == "legacy" else "fixed",
        "residual_convolutions": _has(state, r"layers1c\.0\.layer"),
    }
    return nearest(ENCODERS, args), channels


def _has(state: Mapping[str, Tensor], pattern: str) -> bool:
    return any(re.search(pattern, name) for name in state)


def _ending(state: Mapping[str, Tensor], *endings: str) -> Tensor:
    for name, tensor in state.items():
        if name.endswith(endings):
            return tensor
    raise WeightsError(f"it is no whole Swin: of its {len(state)} tensors none is called {endings[0]!r}")


def find_window(rows: int, state: Mapping[str, Tensor]) -> Size:
    """Return the window of attention, in cells, whose table of relative positions has so many rows.

    Where the file has the indices into its tables it is the window that gives those, and otherwise a cube.
    Raises WeightsError when there is none.
    """
    indices = [tensor for name, tensor in state.items() if name.endswith("attn.relative_position_index")]
    sides = [side for side in range(1, rows + 1, 2) if rows % side == 0]
    for x, y, z in product(sides, repeat=3):
        # An axis of w cells has 2 w - 1 relative positions.
        window = ((x + 1) // 2, (y + 1) // 2, (z + 1) // 2)
        if x * y * z == rows and (all(_belongs(index, window) for index in indices) if indices else x == y == z):
            return window
    why = "and the indices into it are those of none" if indices else "and no cube has a table of so many"
    raise WeightsError(f"its windows are not known: their tables of relative positions have {rows} rows, {why}")


def _belongs(index: Tensor, window: Size) -> bool:
    if index.numel() != prod(window) ** 2:
        return False
    return torch.equal(layout(window, window, False, CPU).pairs, index.flatten().long())
