"""Checkpoints of plain ViTs: MONAI's, its UNETR and masked autoencoder, MIM-Med3D, SelfMedMAE."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mimzoo.checkpoints import Imported, Rule, below, count, pick, tensors_of, translate
from mimzoo.errors import WeightsError
from mimzoo.recipes import Component
from mimzoo_peers.args import UnetrImport, VitImport
from mimzoo_peers.describe import guess_input
from mimzoo_peers.labels import name_outputs
from mimzoo_peers.swin_layout import add_norms
from mimzoo_peers.vit_layout import MONAI_EPS, TIMM_EPS, find_encoder, monai_rules, timm_rules

DECODER = "belongs to the decoder of pretraining"
UNETR_DEPTH, UNETR_PATCH = 12, (16, 16, 16)
# After which blocks UNETR takes its maps: their outputs are numbered from 0, and it takes 3, 6, 9 and the normed end.
UNETR_TAPS = (4, 7, 10, UNETR_DEPTH)


def read_vit(content: Mapping[str, Any], args: VitImport) -> Imported:
    """Return the encoder that MONAI's ViT is, or that its ViTAutoEnc has, of any version.

    Raises WeightsError for a file of another layout, or one that does not tell what is no option either.
    """
    rules = [
        *monai_rules(""),
        Rule(r"classification_head\.(?:0\.)?(?:weight|bias)", None, "belongs to a classifier of the class token"),
        Rule(r"conv3d_transpose(?:_1)?\.(?:weight|bias)", None, DECODER),
    ]
    return _encoder(_tensors(content), rules, args, MONAI_EPS)


def read_mae(content: Mapping[str, Any], args: VitImport) -> Imported:
    """Return the encoder of MONAI's MaskedAutoEncoderViT, whose last block is the norm behind the others.

    Raises WeightsError for a file of another layout, or one that does not tell what is no option either.
    """
    state = _tensors(content)
    depth = count(state, r"blocks\.(\d+)\.mlp\.")
    rules = [
        *monai_rules(""),
        Rule(rf"blocks\.{depth}\.(weight|bias)", r"encoder.norm.\1"),
        Rule(r"(?:decoder_(?:embed|blocks|pred)\..+|decoder_pos_embedding|mask_tokens)", None, DECODER),
    ]
    return _encoder(state, rules, args, MONAI_EPS)


def read_mim_med3d(content: Mapping[str, Any], args: VitImport) -> Imported:
    """Return the encoder of MIM-Med3D's masked autoencoder or SimMIM on a ViT, whose last norm was never trained.

    Raises WeightsError for SimMIM on a Swin, and for a file of another layout or one that does not tell what is no
    option either.
    """
    state = _tensors(content)
    if any(name.startswith("encoder.layers.") for name in state):
        raise WeightsError(
            "it is MIM-Med3D's SimMIM on a Swin, which halves two axes of its grid between stages and leaves the third "
            "as it is; no encoder here does that, so only its SimMIM on a ViT can be imported"
        )
    for name in ("weight", "bias"):
        _check_alias(state, f"patch_to_emb.{name}", f"encoder.patch_embedding.patch_embeddings.1.{name}")
    rules = [
        *monai_rules(r"encoder\."),
        Rule(r"patch_to_emb\.(?:weight|bias)", None, "repeats the embedding of patches"),
        Rule(r"(?:enc_to_dec|decoder_blocks|decoder_norm|decoder_pos_emb|to_pixels)\..+", None, DECODER),
        Rule(r"mask_token", None, "stands for hidden patches, which only pretraining has"),
    ]
    return _encoder(state, rules, args, MONAI_EPS)


def read_selfmedmae(content: Mapping[str, Any], args: VitImport) -> Imported:
    """Return the encoder of SelfMedMAE's masked autoencoder, whose class token has no position either.

    Raises WeightsError for a file of another layout, or one that does not tell what is no option either.
    """
    rules = [
        *timm_rules(r"encoder\."),
        Rule(r"encoder_pos_embed", "encoder.positions"),
        Rule(r"(?:decoder|encoder_to_decoder)\..+|decoder_pos_embed|mask_token", None, DECODER),
    ]
    return _encoder(_tensors(content), rules, args, TIMM_EPS)


def read_unetr(content: Mapping[str, Any], args: UnetrImport) -> Imported:
    """Return the segmenter that MONAI's UNETR is, of any version, with instance norms.

    Raises WeightsError for a file of another layout, labels that do not fit its outputs, or a file that does not tell
    what is no option either.
    """
    state = _tensors(content)
    depth = count(state, r"vit\.blocks\.(\d+)\.mlp\.")
    if depth != UNETR_DEPTH:
        raise WeightsError(f"a UNETR of MONAI has {UNETR_DEPTH} blocks called 'vit.blocks', but it has {depth}")
    tensors, left_out = translate(state, [*monai_rules(r"vit\."), *_unetr_rules()])
    known = VitImport(heads=args.heads, crop=args.crop, patch=UNETR_PATCH)
    found = find_encoder(tensors, known, MONAI_EPS, UNETR_TAPS)
    logits = pick(state, "out.conv.conv.weight")
    head = {
        "width": logits.shape[1],
        # The one block whose widths always differ, so that it has a third convolution wherever blocks are residual
        "residual": "decoder5.conv_block.conv3.conv.weight" in state,
        "refine_skips": "encoder2.blocks.0.1.conv1.conv.weight" in state,
    }
    return Imported(
        encoder=found.component,
        input=guess_input(found.channels, found.crop),
        tensors=add_norms(found.tensors),
        left_out=left_out,
        notes=found.notes,
        head=Component.model_validate({"name": "unetr-concat", "args": head}),
        labels=name_outputs(args.labels, len(logits)),
    )


def _unetr_rules() -> list[Rule]:
    """Return the rules for the decoder of UNETR; its encoder2 to 4 and decoder2 to 5 are numbered from 0 here."""
    block = r"(conv[123])\.conv\.weight"
    rules = [Rule(rf"encoder1\.layer\.{block}", r"head.voxels.\1.weight")]
    for level in range(3):
        theirs, ours = rf"encoder{level + 2}", f"head.skips.{level}"
        rules.append(Rule(rf"{theirs}\.transp_conv_init\.conv\.weight", f"{ours}.0.weight"))
        for step in range(2 - level):
            # A transposed convolution, alone or before its block
            rules += [
                Rule(rf"{theirs}\.blocks\.{step}\.(?:0\.)?conv\.weight", f"{ours}.{step + 1}.0.weight"),
                Rule(rf"{theirs}\.blocks\.{step}\.1\.{block}", rf"{ours}.{step + 1}.1.\1.weight"),
            ]
    for level in range(4):
        rules += [
            Rule(rf"decoder{level + 2}\.transp_conv\.conv\.weight", f"head.ups.{level}.weight"),
            Rule(rf"decoder{level + 2}\.conv_block\.{block}", rf"head.blocks.{level}.\1.weight"),
        ]
    return [*rules, Rule(r"out\.conv\.conv\.(weight|bias)", r"head.logits.\1")]


def _tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, out of the module that Lightning has them in."""
    state = tensors_of(content)
    return below(state, "model.") if all(name.startswith("model.") for name in state) else state


def _encoder(state: Mapping[str, Tensor], rules: Sequence[Rule], args: VitImport, norm_eps: float) -> Imported:
    tensors, left_out = translate(state, rules)
    found = find_encoder(tensors, args, norm_eps)
    return Imported(
        encoder=found.component,
        input=guess_input(found.channels, found.crop),
        tensors=found.tensors,
        left_out=left_out,
        notes=found.notes,
    )


def _check_alias(state: Mapping[str, Tensor], alias: str, name: str) -> None:
    """Raise WeightsError where a tensor that a layout has under two names is not the same under both."""
    if alias in state and not torch.equal(state[alias], pick(state, name)):
        raise WeightsError(f"{alias!r} and {name!r} are one tensor in this format, but in this file they differ")
