"""Checkpoints of nnssl's Primus: the encoder, its axes turned to X, Y and Z and its tokens in raster order."""

import re
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from mimzoo.checkpoints import Imported, Rule, count, pick, tensors_of, translate
from mimzoo.errors import WeightsError
from mimzoo.tokens import Size, divide, sized
from mimzoo_peers.args import PrimusImport
from mimzoo_peers.describe import nearest
from mimzoo_peers.nnssl_plan import (
    OTHERS,
    Plan,
    Turn,
    input_of,
    note_axes,
    read_plan,
    turn_kernels,
    turn_of,
    turned,
)

# The heads of the published sizes S, B, M and L by their width (Wald et al. 2025, arXiv 2503.01835).
HEADS = {396: 6, 792: 12, 864: 12, 1056: 16}
# What nnssl's trainers of Primus set, and what there is no tensor of is scaled by.
MLP_RATIO, DROP_PATH, LAYER_SCALE, UNSCALED = 8 / 3, 0.2, 0.1, 1.0
# A volume's axes from the outermost to the innermost in the row of its tokens.
RASTERS = {"fixed": (0, 1, 2), "legacy": (1, 0, 2)}
ADVICE = "give the crop that it was trained on with --option crop=[X,Y,Z]"
LAYERS = {
    "norm1": "norm1",
    "attn.q_proj": "attention.q",
    "attn.k_proj": "attention.k",
    "attn.v_proj": "attention.v",
    "attn.norm": "attention.norm",
    "attn.proj": "attention.out",
    "norm2": "norm2",
    "mlp.fc1_g": "mlp.gate",
    "mlp.fc1_x": "mlp.value",
    "mlp.norm": "mlp.norm",
    "mlp.fc2": "mlp.out",
}


def read_primus(content: Mapping[str, Any], args: PrimusImport) -> Imported:
    """Return the encoder of a Primus that nnssl pretrained, or that is kept as nnssl does.

    Raises WeightsError for a file of another layout or with register tokens, where neither the file nor an option says
    how many heads there are or how tokens were put in a row, and where plan or crop contradict the tensors.
    """
    plan = read_plan(content)
    turn = turn_of(args.axes or plan.axes)
    state = _split_projections(tensors_of(content))
    stem, eva = plan.key("key_to_stem", "down_projection"), plan.key("key_to_encoder", "eva")
    weight, table = pick(state, f"{stem}.proj.weight"), pick(state, f"{eva}.pos_embed")
    _check_registers(state)
    named, left_out = translate(state, _rules(re.escape(stem), re.escape(eva)))
    sizes = _sizes(named, plan, turn, args)
    encoder = nearest(("primus-medium", "primus-base", "primus-small"), sizes)
    crop = args.crop or _crop(plan, turn, table.shape[1], sizes["patch"])
    grid = _grid(crop, sizes["patch"], table.shape[1])
    raster, why = (args.raster, ()) if args.raster else _raster(content)
    order = _order(raster, turn, grid)
    tensors = turn_kernels(_scaled(named, sizes["depth"], sizes["width"]), turn)
    return Imported(
        encoder=encoder,
        input=input_of(plan, weight.shape[1], crop, turn),
        tensors=_place(tensors, sizes["heads"], grid, order),
        left_out=left_out,
        notes=(*note_axes(plan, args.axes), *why),
    )


def _split_projections(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with one projection each for queries, keys and values, where a file has one for all."""
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(".attn.qkv.weight"):
            for part, weight in zip("qkv", tensor.chunk(3), strict=True):
                split[name.replace("qkv", f"{part}_proj")] = weight.clone()
        else:
            split[re.sub(r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias", name)] = tensor
    return split


def _check_registers(state: Mapping[str, Tensor]) -> None:
    for name, tensor in state.items():
        if name.endswith("register_tokens"):
            raise WeightsError(f"it was trained with {tensor.shape[1]} register tokens, which no encoder here has")


def _rules(stem: str, eva: str) -> list[Rule]:
    block, ends = rf"{eva}\.blocks\.(\d+)", r"\.(weight|bias)"
    return [
        Rule(rf"{stem}\.proj{ends}", r"encoder.patch.\1"),
        Rule(rf"{eva}\.pos_embed", "encoder.positions"),
        Rule(rf"{eva}\.norm{ends}", r"encoder.norm.\1"),
        Rule(rf"{block}\.gamma_([12])", r"encoder.blocks.\1.scale\2"),
        *(
            Rule(rf"{block}\.{re.escape(theirs)}{ends}", rf"encoder.blocks.\1.{ours}.\2")
            for theirs, ours in LAYERS.items()
        ),
        *OTHERS,
    ]


def _sizes(tensors: Mapping[str, Tensor], plan: Plan, turn: Turn, args: PrimusImport) -> dict[str, Any]:
    """Return the arguments of the encoder; WeightsError where plan and tensors disagree, or its heads are not known."""
    width, channels, *patch = pick(tensors, "encoder.patch.weight").shape
    depth = count(tensors, r"encoder\.blocks\.(\d+)\.")
    hidden = len(pick(tensors, "encoder.blocks.0.mlp.gate.weight"))
    plan.check({"pretrain_num_input_channels": channels, "embed_dim": width, "patch_embed_size": patch})
    plan.check({"eva_depth": depth, "encoder_eva_depth": depth})
    return {
        "patch": turned(patch, turn),
        "width": width,
        "depth": depth,
        "heads": args.heads or _heads(plan, width),
        "mlp_ratio": MLP_RATIO if hidden == round(width * MLP_RATIO) else hidden / width,
        "drop_path": plan.built.get("drop_path_rate", DROP_PATH),
        "layer_scale": LAYER_SCALE if "encoder.blocks.0.scale1" in tensors else UNSCALED,
        "inner_norm": "encoder.blocks.0.attention.norm.weight" in tensors,
    }


def _heads(plan: Plan, width: int) -> int:
    known = plan.built.get("encoder_eva_numheads") or plan.built.get("eva_numheads") or HEADS.get(width)
    if known is None:
        raise WeightsError(f"it does not say how many heads share its {width} channels; add --option heads=N")
    return int(known)


def _scaled(tensors: Mapping[str, Tensor], depth: int, width: int) -> dict[str, Tensor]:
    """Return the tensors of a network with layer scale, which scales by 1 where it has none."""
    if "encoder.blocks.0.scale1" in tensors:
        return dict(tensors)
    names = (f"encoder.blocks.{block}.scale{branch}" for block in range(depth) for branch in (1, 2))
    return {**tensors, **{name: torch.full((width,), UNSCALED) for name in names}}


def _crop(plan: Plan, turn: Turn, cells: int, patch: Size) -> Size:
    """Return the crop of the plan, or else the cube that the positions fill; WeightsError where they fill none."""
    if plan.crop is not None:
        return turned(plan.crop, turn)
    side = round(cells ** (1 / 3))
    if side**3 != cells:
        raise WeightsError(f"its {cells} positions fill no cube, and it has no plan; {ADVICE}")
    return (side * patch[0], side * patch[1], side * patch[2])


def _grid(crop: Size, patch: Size, cells: int) -> Size:
    """Return how many patches a crop has along X, Y and Z; WeightsError where they are not as many as positions."""
    grid = divide(crop, patch, "the crop", "the patch")
    if prod(grid) != cells:
        raise WeightsError(
            f"it has {cells} positions, but the crop {sized(crop)} has {prod(grid)} patches of {sized(patch)}; {ADVICE}"
        )
    return grid


def _raster(content: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return how tokens were put in a row, and why so: by the trainer that a checkpoint names.

    The masked autoencoder that all trainers but SimMIM's use (MIC-DKFZ/nnssl, architectures/evaMAE_module.py) goes
    through the second axis first. What names no trainer was not saved by one, but as the network itself is.
    Raises WeightsError for a trainer that is none of nnssl's.
    """
    trainer = content.get("trainer_name")
    if trainer is None:
        return "fixed", ("raster fixed, as it names no trainer",)
    for part, raster in (("SimMIM", "fixed"), ("Eva", "legacy"), ("nnFoundationViT", "legacy")):
        if part in str(trainer):
            return raster, (f"raster {raster}, by its trainer {trainer}",)
    raise WeightsError(
        f"its trainer {trainer} does not tell the order of its tokens; add --option raster=legacy for nnssl's but "
        "SimMIM and for dynamic-network-architectures up to 0.4.2, or --option raster=fixed for SimMIM and since 0.4.3"
    )


def _order(raster: str, turn: Turn, grid: Size) -> Turn:
    """Return for X, Y and Z which axis of the row of tokens each is, counted from the outermost.

    Raises WeightsError where rotary positions were not those of the tokens, which nothing here computes.
    """
    first, second = (grid[turn.index(axis)] for axis in (0, 1))
    if raster == "legacy" and first != second:
        raise WeightsError(
            f"its grid is {first} long along the first axis of training and {second} along the second, so that with "
            "raster=legacy tokens had the rotary positions of others, which is not computed here"
        )
    return turned(RASTERS[raster], turn)


def _place(tensors: Mapping[str, Tensor], heads: int, grid: Size, order: Turn) -> dict[str, Tensor]:
    """Return the tensors with positions on the grid, and the channels that each axis turns in the order X, Y, Z."""
    row = [grid[order.index(axis)] for axis in range(3)]
    # (1, N, D) -> (1, the row's axes, D) -> (1, D, GX, GY, GZ)
    table = tensors["encoder.positions"].reshape(1, *row, -1).permute(0, 4, *(1 + axis for axis in order))
    placed = {**tensors, "encoder.positions": table.contiguous()}
    for name, tensor in tensors.items():
        if re.search(r"\.attention\.[qk]\.", name):
            # (heads 3 c, ...) -> (heads, 3, c, ...), a third for each axis -> (heads 3 c, ...)
            thirds = tensor.reshape(heads, 3, -1, *tensor.shape[1:])[:, list(order)]
            placed[name] = thirds.flatten(0, 2)
    return placed
