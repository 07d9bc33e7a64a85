"""Checkpoints of nnssl's residual U-Nets: their encoder, with its axes turned to X, Y and Z."""

import re
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from mimzoo.checkpoints import Imported, Rule, count, pick, tensors_of, translate
from mimzoo.errors import WeightsError
from mimzoo.tokens import Size, sized
from mimzoo_peers.args import ResEncImport
from mimzoo_peers.describe import nearest
from mimzoo_peers.nnssl_plan import (
    OTHERS,
    Plan,
    Turn,
    input_of,
    note_axes,
    read_plan,
    triple,
    turn_kernels,
    turn_of,
    turned,
)

# What OpenMind's networks were trained on (Wald et al. 2024, arXiv 2412.17041).
CROP = (160, 160, 160)
COMPUTED = {"conv_op": "Conv3d", "norm_op": "InstanceNorm3d", "nonlin": "LeakyReLU"}

# Each convolution and each norm has two names, and two more below the decoder.
ALIASES = (
    (r"(^|\.)decoder\.encoder\.", r"\1encoder."),
    (r"\.all_modules\.0\.", ".conv."),
    (r"\.all_modules\.[12]\.", ".norm."),
)


def read_resenc(content: Mapping[str, Any], args: ResEncImport) -> Imported:
    """Return the encoder of a residual U-Net that nnssl pretrained, or that is kept as nnssl does.

    Raises WeightsError for a file of another layout, for layers that are not computed here, for names of one tensor
    that hold different ones, and where the plan or the strides contradict the tensors.
    """
    plan = read_plan(content)
    plan.check_layers(COMPUTED)
    turn = turn_of(args.axes or plan.axes)
    state, repeated = _merge_aliases(tensors_of(content), "Spark" in str(content.get("trainer_name")))
    stem, stages = plan.key("key_to_stem", "encoder.stem"), plan.key("key_to_encoder", "encoder.stages")
    channels = pick(state, f"{stem}.convs.0.conv.weight").shape[1]
    plan.check({"pretrain_num_input_channels": channels})
    tensors, left_out = translate(state, _rules(re.escape(stem), re.escape(stages)))
    sizes = _sizes(tensors, plan)
    strides = _strides(args, plan, turn, len(sizes["features"]))
    _check_pooling(state, stages, strides)
    sizes |= {} if strides == _usual(len(sizes["features"])) else {"strides": strides}
    crop = args.crop or (turned(plan.crop, turn) if plan.crop else CROP)
    return Imported(
        encoder=nearest(("resenc-large", "resenc-base", "resenc-small"), sizes),
        input=input_of(plan, channels, crop, turn),
        tensors=turn_kernels(_with_biases(tensors), turn),
        left_out={**left_out, **repeated},
        notes=note_axes(plan, args.axes),
    )


def _merge_aliases(state: Mapping[str, Tensor], spark: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return each tensor once, under the first of its names, and why its other names are left out.

    SparK's trainers (MIC-DKFZ/nnssl, architectures/spark_utils.py) make two layers of one, of which they train that in
    `all_modules`: the one that computes, and the one that remains where a network of one layer loads both.
    """
    merged: dict[str, Tensor] = {}
    owners: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name in sorted(state, key=lambda name: "all_modules" not in name):
        first = _first_name(name)
        owner = owners.setdefault(first, name)
        if owner == name:
            merged[first] = state[name]
        elif torch.equal(merged[first], state[name]):
            left_out[name] = "repeats another of its tensors"
        elif spark and "all_modules" not in name:
            left_out[name] = "is a copy that SparK never trained"
        else:
            raise WeightsError(f"{owner!r} and {name!r} are names of one tensor, but hold different ones")
    return merged, left_out


def _first_name(name: str) -> str:
    """Return the first name of an encoder's tensor; those of the decoder are left out one by one."""
    first = reduce(lambda known, alias: re.sub(alias[0], alias[1], known), ALIASES, name)
    return name if "decoder." in first else first


def _rules(stem: str, stages: str) -> list[Rule]:
    block, layer = rf"{stages}\.(\d+\.blocks\.\d+)", r"((?:conv|norm)\.(?:weight|bias))"
    return [
        Rule(rf"{stem}\.convs\.0\.{layer}", r"encoder.stem.\1"),
        Rule(rf"{block}\.(conv[12])\.{layer}", r"encoder.stages.\1.\2.\3"),
        # The skip is a list there, in which the pooling, where there is one, comes before the convolution.
        Rule(rf"{block}\.skip\.[01]\.{layer}", r"encoder.stages.\1.skip.\2"),
        *OTHERS,
    ]


def _sizes(tensors: Mapping[str, Tensor], plan: Plan) -> dict[str, Any]:
    """Return the features and blocks of the stages; WeightsError where the plan has others, or kernels are others."""
    stages = range(count(tensors, r"encoder\.stages\.(\d+)\."))
    features = [len(pick(tensors, f"encoder.stages.{i}.blocks.0.conv2.conv.weight")) for i in stages]
    blocks = [count(tensors, rf"encoder\.stages\.{i}\.blocks\.(\d+)\.") for i in stages]
    plan.check({"n_stages": len(stages), "features_per_stage": features, "n_blocks_per_stage": blocks})
    for name, tensor in tensors.items():
        kernel = tuple(tensor.shape[2:])
        if tensor.dim() == 5 and kernel != ((1, 1, 1) if ".skip." in name else (3, 3, 3)):
            raise WeightsError(f"it has kernels of {sized(kernel)}, but only those of 3 x 3 x 3 are computed here")
    if (width := len(tensors["encoder.stem.conv.weight"])) not in features[:1]:
        raise WeightsError(f"its stem has {width} features and its stages {features}, but the first must have as many")
    return {"features": features, "blocks": blocks}


def _strides(args: ResEncImport, plan: Plan, turn: Turn, stages: int) -> list[Size]:
    """Return the stride of each stage along X, Y and Z: as given, of the plan, or 2 from the second stage on."""
    if args.strides is not None:
        return [triple(stride, int) for stride in args.strides]
    if "strides" in plan.built:
        return [turned(triple(stride, int), turn) for stride in plan.built["strides"]]
    return _usual(stages)


def _usual(stages: int) -> list[Size]:
    return [(1, 1, 1), *[(2, 2, 2)] * (stages - 1)]


def _check_pooling(state: Mapping[str, Tensor], stages: str, strides: list[Size]) -> None:
    """Raise WeightsError where a skip pools before its convolution although its stage has no stride, or the reverse."""
    for number, stride in enumerate(strides):
        wrong = f"{stages}.{number}.blocks.0.skip.{int(stride == (1, 1, 1))}.conv.weight"
        if wrong in state:
            raise WeightsError(
                f"stage {number + 1} would have stride {sized(stride)}, which its tensor {wrong!r} contradicts; "
                "give the strides with --option strides=[1,2,...]"
            )


def _with_biases(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a network with biases, zeros where it has none: its norms take off what they would add."""
    if any(name.endswith(".conv.bias") for name in tensors):
        return dict(tensors)
    convolutions = [name for name in tensors if name.endswith("conv.weight") and ".skip." not in name]
    zeros = {name.replace("conv.weight", "conv.bias"): torch.zeros(len(tensors[name])) for name in convolutions}
    return {**tensors, **zeros}
