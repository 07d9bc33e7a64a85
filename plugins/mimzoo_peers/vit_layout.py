"""How the plain ViTs of MONAI and timm call their tensors, and what the shapes of these say of the encoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from mimzoo.checkpoints import Rule, count
from mimzoo.errors import WeightsError
from mimzoo.recipes import Component
from mimzoo.tokens import Size, divide, sized
from mimzoo_peers.args import VitImport
from mimzoo_peers.describe import nearest

ENCODERS = ("vit-tiny", "vit-small", "vit-base")
HEAD_WIDTH = 64
MONAI_EPS, TIMM_EPS = 1e-5, 1e-6
MONAI_BLOCK = {
    "norm1": "norm1",
    r"attn\.qkv": "attention.qkv",
    r"attn\.out_proj": "attention.out",
    "norm2": "norm2",
    r"mlp\.linear1": "mlp.0",
    r"mlp\.linear2": "mlp.2",
}
TIMM_BLOCK = {
    "norm1": "norm1",
    r"attn\.qkv": "attention.qkv",
    r"attn\.proj": "attention.out",
    "norm2": "norm2",
    r"mlp\.fc1": "mlp.0",
    r"mlp\.fc2": "mlp.2",
}


@dataclass(frozen=True)
class Found:
    """An encoder in a file: what builds it, its tensors under our names, and what it takes."""

    component: Component
    tensors: Mapping[str, Tensor]
    channels: int
    crop: Size
    notes: tuple[str, ...]


def monai_rules(root: str) -> list[Rule]:
    """Return the rules for MONAI's ViT, of any version, below the names that the pattern `root` matches."""
    return [
        Rule(rf"{root}patch_embedding\.position_embeddings", "encoder.positions"),
        # The perceptron comes second, behind what cuts the volume into patches.
        Rule(rf"{root}patch_embedding\.patch_embeddings(?:\.1)?\.(weight|bias)", r"encoder.patch.\1"),
        Rule(rf"{root}patch_embedding\.cls_token", None, "is a class token that no version of MONAI used"),
        Rule(rf"{root}cls_token", "encoder.class_token"),
        *_block_rules(root, MONAI_BLOCK),
        Rule(
            rf"{root}blocks\.\d+\.(?:norm_cross_attn|cross_attn)\..+",
            None,
            "belongs to cross-attention, which MONAI makes and its ViT never uses",
        ),
        Rule(rf"{root}norm\.(weight|bias)", r"encoder.norm.\1"),
    ]


def timm_rules(root: str) -> list[Rule]:
    """Return the rules for a ViT of timm's blocks below the names that the pattern `root` matches."""
    return [
        Rule(rf"{root}patch_embed\.proj\.(weight|bias)", r"encoder.patch.\1"),
        Rule(rf"{root}cls_token", "encoder.class_token"),
        *_block_rules(root, TIMM_BLOCK),
        Rule(rf"{root}norm\.(weight|bias)", r"encoder.norm.\1"),
    ]


def _block_rules(root: str, names: Mapping[str, str]) -> list[Rule]:
    block = rf"{root}blocks\.(\d+)"
    return [Rule(rf"{block}\.{name}\.(weight|bias)", rf"encoder.blocks.\1.{new}.\2") for name, new in names.items()]


def find_encoder(
    tensors: Mapping[str, Tensor], args: VitImport, norm_eps: float, taps: tuple[int, ...] | None = None
) -> Found:
    """Return the encoder that translated tensors make, with learned positions whatever made them.

    Biases that attention was trained without are 0. Raises WeightsError where a tensor is missing that tells of it, and
    where its patches, crop or heads cannot be known and are not among the options.
    """
    embedding, hidden = (_one(tensors, name) for name in ("patch.weight", "blocks.0.mlp.0.weight"))
    positions = _one(tensors, "positions")
    width, patch = len(embedding), find_patch(embedding, args.patch)
    weight = unflatten_patches(embedding, patch)
    grid = find_grid(positions.shape[1], patch, args.crop)
    depth = count(tensors, r"encoder\.blocks\.(\d+)\.")
    component = nearest(
        ENCODERS,
        {
            "patch": patch,
            "width": width,
            "depth": depth,
            "heads": find_heads(width, args.heads),
            "mlp_ratio": len(hidden) / width,
            "positions": "learned",
            "norm_eps": norm_eps,
            "class_token": "encoder.class_token" in tensors,
            "taps": taps,
        },
    )
    biases = {f"encoder.blocks.{n}.attention.qkv.bias": hidden.new_zeros(3 * width) for n in range(depth)}
    # (1, N, D) -> (1, D, GX, GY, GZ)
    laid = torch.unflatten(positions.transpose(1, 2), 2, grid)
    made = {**biases, **tensors, "encoder.patch.weight": weight, "encoder.positions": laid}
    x, y, z = (n * p for n, p in zip(grid, patch, strict=True))
    notes = () if args.heads else (f"heads {find_heads(width, None)}, as heads have {HEAD_WIDTH} channels mostly",)
    return Found(component, made, weight.shape[1], (x, y, z), notes)


def _one(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    tensor = tensors.get(f"encoder.{name}")
    if tensor is None:
        raise WeightsError(f"it is no whole ViT: none of its tensors becomes {name!r} of an encoder here")
    return tensor


def find_patch(embedding: Tensor, given: Size | None) -> Size:
    """Return the patch in voxels of an embedding's weight: of a convolution, or of a perceptron (D, px py pz C).

    Raises WeightsError for images, for another patch than the one given, and where that is needed and was not.
    """
    if embedding.dim() not in (2, 5):
        raise WeightsError("it is a network for images: its patches have two axes, and volumes have three")
    if embedding.dim() == 5:
        x, y, z = embedding.shape[2:]
        if given not in (None, (x, y, z)):
            raise WeightsError(f"its patches are {sized((x, y, z))} voxels, so leave the option patch out")
        return (x, y, z)
    values = embedding.shape[1]
    side = round(values ** (1 / 3))
    if given is None and side**3 != values:
        raise WeightsError(
            f"its patches have {values} values, which are no cube of one channel; give their size in voxels: "
            "--option patch=[16,16,16]"
        )
    patch = given or (side, side, side)
    if values % prod(patch):
        raise WeightsError(f"its patches have {values} values, which are no whole channels of {sized(patch)} voxels")
    return patch


def unflatten_patches(embedding: Tensor, patch: Size) -> Tensor:
    """Return the weight (D, C, px, py, pz) of a convolution that does what a perceptron's (D, px py pz C) does."""
    if embedding.dim() == 5:
        return embedding
    # (D, px py pz C) -> (D, px, py, pz, C) -> (D, C, px, py, pz)
    return torch.unflatten(embedding, 1, (*patch, -1)).permute(0, 4, 1, 2, 3)


def find_grid(positions: int, patch: Size, crop: Size | None) -> Size:
    """Return the grid that so many positions lie on: that of the crop in voxels, or else a cube.

    Raises WeightsError where they are no cube and no crop is given, or one of another number of patches; ShapeError
    for a crop that the patch does not divide.
    """
    side = round(positions ** (1 / 3))
    if crop is None:
        if side**3 != positions:
            raise WeightsError(
                f"its {positions} positions are no cube of patches; give the crop that it was trained on in voxels: "
                "--option crop=[96,96,96]"
            )
        return (side, side, side)
    grid = divide(crop, patch, "the crop", "the patch")
    if prod(grid) != positions:
        raise WeightsError(
            f"a crop of {sized(crop)} voxels has {prod(grid)} patches of {sized(patch)}, but it has positions for "
            f"{positions}; give the crop that it was trained on"
        )
    return grid


def find_heads(width: int, given: int | None) -> int:
    """Return the number of heads of attention: the one given, or else of 64 channels each.

    Raises WeightsError where there are no such heads.
    """
    if given is None and width % HEAD_WIDTH:
        raise WeightsError(
            f"its width of {width} makes no whole heads of {HEAD_WIDTH} channels; say how many there are: "
            "--option heads=12"
        )
    return given or width // HEAD_WIDTH
