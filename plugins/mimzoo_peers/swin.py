"""Checkpoints of MONAI's Swin UNETR and of what is built on it: its pretraining, VoCo, SuPreM."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from mimzoo.checkpoints import Imported, Rule, tensors_of, translate
from mimzoo.errors import WeightsError
from mimzoo.recipes import Component, Input, Spacing, WindowHU
from mimzoo.tokens import Size
from mimzoo_peers.args import SwinImport, SwinSegmenterImport, VocoImport
from mimzoo_peers.describe import guess_input, name_channels
from mimzoo_peers.labels import name_outputs
from mimzoo_peers.swin_layout import add_norms, encoder_rules, find_encoder, head_rules, sort_corners

ROOT = r"(?:backbone\.)?"
SWIN = rf"{ROOT}(?:swinViT|swin_vit)\."
PRETRAINING = "belongs to a head of pretraining"
ABDOMEN_HU = (-175.0, 250.0)


def read_swinvit(content: Mapping[str, Any], args: SwinImport) -> Imported:
    """Return the encoder of a Swin UNETR's pretraining, as `model_swinvit.pt` has it or the code that made it.

    Spacing and HU window are the arguments of that code (Project-MONAI/research-contributions, SwinUNETR/Pretrain,
    main.py); its public pipeline leaves scans at their own spacing, fine-tuning does not.
    Raises WeightsError for a file of another layout.
    """
    rules = [
        *encoder_rules(rf"(?:{SWIN})?"),
        # The convolutions that paint hidden voxels are one in the published file and may be several in the code's own.
        Rule(r"(?:rotation_head|contrastive_head|convTrans3d|conv(?:\.\d+)?)\.(?:weight|bias)", None, PRETRAINING),
        Rule(rf"(?:{SWIN})?norm\.(?:weight|bias)", None, "is a norm that Swin UNETR does not use"),
    ]
    prepare = partial(_ct, spacing=(1.5, 1.5, 2.0), window=(-1000.0, 1000.0), crop=args.crop)
    return _read(tensors_of(content), rules, args.merge, prepare)


def read_swinunetr(content: Mapping[str, Any], args: SwinSegmenterImport) -> Imported:
    """Return the segmenter that a whole Swin UNETR is, v1 or v2.

    One channel is taken to be CT prepared as for BTCV, several to be MR at 1 mm as of BraTS 2021
    (Project-MONAI/research-contributions, SwinUNETR/BTCV and SwinUNETR/BRATS21).
    Raises WeightsError for a file of another layout, or labels that do not fit its outputs.
    """
    rules = [*encoder_rules(SWIN), *head_rules(ROOT)]
    return _read(tensors_of(content), rules, args.merge, partial(guess_input, crop=args.crop), args.labels)


def read_voco(content: Mapping[str, Any], args: VocoImport) -> Imported:
    """Return the encoder of VoCo's Swin UNETR v2, or the segmenter where its decoder is whole, as in VoComni.

    Scans of abdomen and head are prepared like this (Luffy03/Large-Scale-Medical, Self-supervised/utils/data_trans.py
    and VoComni/main.py), those of the chest at 1.25 x 1.25 x 5 mm and -1000 to 500 HU.
    Raises WeightsError for a file of another layout.
    """
    state = tensors_of(content)
    whole = any(name.endswith("out.conv.conv.weight") for name in state)
    part = Rule(rf"{ROOT}encoder\d+\.layer\..+", None, "belongs to a decoder of which the file has only this part")
    heads = Rule(r"(?:student|teacher)\.layer\d\..+", None, PRETRAINING)
    rules = [*encoder_rules(SWIN), *(head_rules(ROOT) if whole else [part]), heads]
    crop = args.crop or ((96, 96, 96) if whole else (64, 64, 64))
    prepare = partial(_ct, spacing=(1.5, 1.5, 1.5), window=ABDOMEN_HU, crop=crop)
    return _read(state, rules, args.merge, prepare, "numbered" if whole else None)


def read_suprem(content: Mapping[str, Any], args: SwinImport) -> Imported:
    """Return the encoder of SuPreM's Swin UNETR, whose decoder ends in a head that is driven by text.

    Scans are prepared as by MrGiovanni/SuPreM, supervised_pretraining/train.py.
    Raises WeightsError for a file of another layout.
    """
    # The first component of a name differs between files.
    root = rf"(?:\w+\.)?{ROOT}"
    driven = "belongs to a decoder that ends in a head driven by text"
    others = r"(?:(?:encoder|decoder)\d+|out|precls_conv|GAP|controller|organ_embedding|text_to_vision)(?:\..+)?"
    rules = [*encoder_rules(rf"{root}swinViT\."), Rule(root + others, None, driven)]
    prepare = partial(_ct, spacing=(1.5, 1.5, 1.5), window=ABDOMEN_HU, crop=args.crop)
    return _read(tensors_of(content), rules, args.merge, prepare)


def _read(
    state: Mapping[str, Tensor],
    rules: Sequence[Rule],
    merge: str,
    prepare: Callable[[int], Input],
    labels: str | None = None,
) -> Imported:
    """Return the encoder that a state's rules make, or with `labels` the segmenter; `prepare` tells the input."""
    tensors, left_out = translate(state, rules)
    encoder, channels = find_encoder(state, merge)
    tensors = sort_corners(tensors) if merge == "v2" else tensors
    input = prepare(channels)
    if labels is None:
        return Imported(encoder=encoder, input=input, tensors=tensors, left_out=left_out)
    logits = tensors.get("head.logits.weight")
    if logits is None:
        raise WeightsError("it has no layer 'out.conv.conv', so that it is not a whole Swin UNETR")
    return Imported(
        encoder=encoder,
        input=input,
        tensors=add_norms(tensors),
        left_out=left_out,
        head=Component(name="swin-unetr"),
        labels=name_outputs(labels, len(logits)),
    )


def _ct(channels: int, spacing: Spacing, window: tuple[float, float], crop: Size) -> Input:
    intensity = WindowHU(mode="window_hu", window_hu=window)
    return Input(channels=name_channels(channels, "CT"), spacing_mm=spacing, intensity=intensity, crop=crop)
