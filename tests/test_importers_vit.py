"""Checkpoints of plain ViTs: the activations of their own classes, and what files are refused or say of themselves."""

import hashlib

import golden_vit as golden
import pytest
import torch
from monai.networks.nets import ViT, ViTAutoEnc

import mimzoo
from mimzoo.cards import find_card, store_folder
from mimzoo.errors import ShapeError, WeightsError
from mimzoo.importing import import_checkpoint
from mimzoo_peers import vit as importers
from mimzoo_peers import vit_layout
from mimzoo_seg.unetr_concat import Plain

# What MONAI says of its own positions
pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")


@pytest.mark.parametrize("name", golden.GOLDENS)
def test_an_import_gives_the_activations_of_the_peers_own_class(name, tmp_path):
    found = golden.GOLDENS[name](tmp_path)
    assert found.difference <= 1e-4 and found.largest > 0.1


def test_the_comparison_notices_other_heads(tmp_path, monkeypatch):
    monkeypatch.setitem(golden.SMALL_OPTIONS, "heads", 2)
    assert golden.vit_conv(tmp_path).difference > 1e-2


def test_the_comparison_notices_other_taps(tmp_path, monkeypatch):
    monkeypatch.setattr(importers, "UNETR_TAPS", (3, 6, 9, 12))
    assert golden.unetr_conv(tmp_path).difference > 1e-2


def test_the_comparison_notices_another_order_of_voxels(tmp_path, monkeypatch):
    unflatten = vit_layout.unflatten_patches
    monkeypatch.setattr(vit_layout, "unflatten_patches", lambda *given: unflatten(*given).transpose(2, 3))
    assert golden.vit_perceptron(tmp_path).difference > 1e-2


def test_the_comparison_notices_a_class_token_that_is_another(tmp_path, monkeypatch):
    monkeypatch.setattr(golden, "stale", lambda state: {**state, "cls_token": -state["cls_token"]})
    assert golden.mae(tmp_path).difference > 1e-2


def put(tmp_path, content):
    file = tmp_path / "vit.pt"
    torch.save(content, file)
    return file


def state_of(module, **changes):
    """A state dict with some tensors changed, added, or left out where None."""
    state = {**module.state_dict(), **changes}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


def small(**args):
    """A ViT that a file describes in full: cubes of one channel, and two heads of 64."""
    given = {"img_size": 16, "patch_size": 8, "hidden_size": 128, "mlp_dim": 32, "num_layers": 4, "num_heads": 2}
    return ViT(**{"in_channels": 1, **given, **args})


ODD = {"hidden_size": 36, "num_heads": 3}
REFUSED = {
    "positions that are no cube": (
        lambda: small(img_size=(16, 16, 24)).state_dict(), {},
        r"its 12 positions are no cube of patches; give the crop that it was trained on in voxels: "
        r"--option crop=\[96,96,96\]",
    ),
    "a crop of more patches": (
        lambda: small().state_dict(), {"crop": [16, 16, 24]},
        "a crop of 16 x 16 x 24 voxels has 12 patches of 8 x 8 x 8, but it has positions for 8; give the crop that it "
        "was trained on",
    ),
    "a crop that patches do not divide": (
        lambda: small().state_dict(), {"crop": [16, 16, 20]},
        "the crop 16 x 16 x 20 is not divisible by the patch 8 x 8 x 8",
    ),
    "heads that are not of 64 channels": (
        lambda: small(**ODD).state_dict(), {},
        "its width of 36 makes no whole heads of 64 channels; say how many there are: --option heads=12",
    ),
    "heads that do not divide": (
        lambda: small(**ODD).state_dict(), {"heads": 5},
        "width 36 must be a multiple of heads 5",
    ),
    "another patch than the file's": (
        lambda: small().state_dict(), {"patch": [4, 4, 4]},
        "its patches are 8 x 8 x 8 voxels, so leave the option patch out",
    ),
    "patches of several channels": (
        lambda: small(in_channels=2, proj_type="perceptron").state_dict(), {},
        r"its patches have 1024 values, which are no cube of one channel; give their size in voxels: "
        r"--option patch=\[16,16,16\]",
    ),
    "patches of a part of a channel": (
        lambda: small(in_channels=2, proj_type="perceptron").state_dict(), {"patch": [8, 8, 12]},
        "its patches have 1024 values, which are no whole channels of 8 x 8 x 12 voxels",
    ),
    "a network for images": (
        lambda: small(spatial_dims=2).state_dict(), {},
        "it is a network for images: its patches have two axes, and volumes have three",
    ),
    "another layout": (
        lambda: {"layers1.0.norm.weight": torch.ones(3)}, {},
        "it is of another layout: 1 of its 1 tensors have names that this format does not know, such as "
        "layers1.0.norm.weight",
    ),
    "no positions": (
        lambda: state_of(small(), **{"patch_embedding.position_embeddings": None}), {},
        "it is no whole ViT: none of its tensors becomes 'positions' of an encoder here",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_or_an_option_that_does_not_fit_is_refused_and_nothing_is_kept(case, tmp_path):
    make, options, sentence = REFUSED[case]
    with pytest.raises((WeightsError, ShapeError), match=f"vit.pt cannot be imported as monai-vit: .*{sentence}"):
        import_checkpoint("monai-vit", put(tmp_path, make()), "refused", options)
    assert not store_folder("refused").exists()


def test_a_tensor_that_is_missing_is_named(tmp_path):
    file = put(tmp_path, state_of(small(), **{"blocks.2.norm1.weight": None}))
    with pytest.raises(WeightsError, match="1 missing: encoder.blocks.2.norm1.weight"):
        import_checkpoint("monai-vit", file, "refused")
    assert not store_folder("refused").exists()


def mim(autoencoder=True, **changes):
    state = golden.MimMed3d(autoencoder).checkpoint()["state_dict"]
    return {"state_dict": {**state, **changes}}


def test_an_alias_that_differs_from_what_it_repeats_is_refused(tmp_path):
    file = put(tmp_path, mim(**{"model.patch_to_emb.bias": torch.full((36,), 0.5)}))
    with pytest.raises(
        WeightsError,
        match="'patch_to_emb.bias' and 'encoder.patch_embedding.patch_embeddings.1.bias' are one tensor in this "
        "format, but in this file they differ",
    ):
        import_checkpoint("mim-med3d-mae", file, "refused", golden.MIM_OPTIONS)


def test_simmim_on_a_swin_is_refused_for_what_its_swin_is(tmp_path):
    swin = {"model.encoder.layers.0.downsample.reduction.weight": torch.zeros(8, 16), "model.mask_token": torch.ones(4)}
    with pytest.raises(
        WeightsError,
        match="it is MIM-Med3D's SimMIM on a Swin, which halves two axes of its grid between stages and leaves the "
        "third as it is; no encoder here does that, so only its SimMIM on a ViT can be imported",
    ):
        import_checkpoint("mim-med3d-simmim", put(tmp_path, {"state_dict": swin}), "refused")


UNETR = {"heads": 3, "crop": [48, 16, 32]}


def affine():
    return golden.unetr(norm_name=("instance", {"affine": True}))


@pytest.mark.parametrize(
    ("make", "options", "sentence"),
    [
        (lambda: golden.unetr(out_channels=3).state_dict(), {"labels": "btcv"}, "13 organs .* it has 3 outputs"),
        (lambda: golden.unetr(out_channels=1).state_dict(), {}, "it has 1 output"),
        (lambda: affine().state_dict(), {}, "names that this format does not know, such as encoder1.layer.norm1"),
        (
            lambda: {f"vit.{name}": tensor for name, tensor in golden.vit().state_dict().items()},
            {},
            "a UNETR of MONAI has 12 blocks called 'vit.blocks', but it has 5",
        ),
        (
            lambda: state_of(golden.unetr(), **{"out.conv.conv.weight": None}),
            {},
            "it has no tensor 'out.conv.conv.weight'",
        ),
    ],
)
def test_a_unetr_that_is_none_or_has_other_outputs_is_refused(make, options, sentence, tmp_path):
    with pytest.raises(WeightsError, match=sentence):
        import_checkpoint("monai-unetr", put(tmp_path, make()), "refused", {**UNETR, **options})


def test_the_card_says_what_was_imported_and_how(tmp_path):
    file = put(tmp_path, golden.vit().state_dict())
    import_checkpoint("monai-vit", file, "known", golden.SMALL_OPTIONS)
    block = find_card("known").block
    assert block.encoder.name == "vit-tiny"
    assert block.encoder.args == {
        "patch": [8, 8, 4], "width": 36, "depth": 5, "mlp_ratio": 80 / 36, "positions": "learned", "norm_eps": 1e-5,
    }  # fmt: skip
    origin = block.origin
    assert origin.sha256 == hashlib.sha256(file.read_bytes()).hexdigest() and origin.bytes == file.stat().st_size
    assert origin.args == {"heads": 3, "crop": [32, 16, 24]}
    assert (origin.format, origin.file, origin.licence) == ("monai-vit", "vit.pt", "unknown")
    assert "2010.11929" in origin.citation and origin.republish


def test_the_card_of_a_unetr_has_its_head_and_the_names_of_its_outputs(tmp_path):
    import_checkpoint("monai-unetr", put(tmp_path, golden.unetr().state_dict()), "known", {**UNETR, "labels": "btcv"})
    card = find_card("known")
    assert card.kind == "segmenter" and card.block.labels[1] == "spleen" and len(card.block.labels) == 13
    assert card.block.encoder.args["taps"] == [4, 7, 10, 12]
    assert card.block.finetuning.head.name == "unetr-concat"
    assert card.block.finetuning.head.args == {"width": 4, "residual": True, "refine_skips": True}
    assert card.block.origin.licence == "Apache-2.0" and card.block.origin.url.endswith("UNETR/BTCV")


def test_mim_med3d_is_not_to_be_passed_on(tmp_path):
    import_checkpoint("mim-med3d-mae", put(tmp_path, mim()), "known", golden.MIM_OPTIONS)
    origin = find_card("known").block.origin
    assert not origin.republish and "2204.11716" in origin.citation


@pytest.mark.parametrize(
    ("channels", "names", "spacing", "intensity"),
    [
        (1, ("CT",), (1.5, 1.5, 2.0), {"mode": "window_hu", "window_hu": (-175.0, 250.0)}),
        (2, ("channel 1", "channel 2"), (1.0, 1.0, 1.0), {"mode": "zscore", "voxels": "nonzero"}),
    ],
)
def test_one_channel_is_prepared_as_ct_and_several_as_mr(channels, names, spacing, intensity, tmp_path):
    import_checkpoint("monai-vit", put(tmp_path, small(in_channels=channels).state_dict()), "known")
    seen = find_card("known").block.input
    assert (seen.channels, seen.spacing_mm, seen.crop) == (names, spacing, (16, 16, 16))
    assert seen.intensity.model_dump() == intensity


def wrapped(prefix, key=None):
    def wrap(state):
        named = {f"{prefix}{name}": tensor for name, tensor in state.items()}
        return named if key is None else {key: named}

    return wrap


@pytest.mark.parametrize(
    "wrap", [wrapped("module."), wrapped("_orig_mod.module.", "model"), wrapped("model.", "state_dict")]
)
def test_wrappers_of_modules_and_files_are_taken_off(wrap, tmp_path):
    theirs = golden.randomise(small())
    ours = golden.imported("monai-vit", wrap(theirs.state_dict()), tmp_path)
    assert golden.compare_vit(theirs, ours, golden.volume(1, (16, 16, 16))).difference < 1e-4


def test_what_is_left_out_has_its_reason(tmp_path):
    def reasons(format, content, options=None):
        name = f"left-{len(list(tmp_path.iterdir()))}"
        folder = tmp_path / name
        folder.mkdir()
        found = import_checkpoint(format, put(folder, content), name, options).left_out
        return {name.split(".")[0] if "cross" not in name else "cross": reason for name, reason in found.items()}

    decoder, cross = "belongs to the decoder of pretraining", "cross-attention, which MONAI makes and its ViT never"
    classifier = reasons("monai-vit", golden.old(small(classification=True).state_dict()))
    assert classifier == {
        "patch_embedding": "is a class token that no version of MONAI used",
        "classification_head": "belongs to a classifier of the class token",
    }
    autoencoder = ViTAutoEnc(1, (32, 16, 48), (16, 16, 16), **golden.SMALL).state_dict()
    found = reasons("monai-vit", golden.stale(autoencoder), {"heads": 3, "crop": [32, 16, 48]})
    assert found.pop("cross").startswith(f"belongs to {cross}")
    assert found == {"conv3d_transpose": decoder, "conv3d_transpose_1": decoder}
    found = reasons("mim-med3d-simmim", mim(False), golden.MIM_OPTIONS)
    assert found == {
        "mask_token": "stands for hidden patches, which only pretraining has",
        "patch_to_emb": "repeats the embedding of patches",
        "to_pixels": decoder,
    }
    found = reasons("selfmedmae", golden.SelfMedMae(1, 24).state_dict(), golden.SMALL_OPTIONS)
    assert set(found.values()) == {decoder}
    assert set(found) == {"decoder_pos_embed", "mask_token", "decoder", "encoder_to_decoder"}


def test_attention_without_biases_gets_zeros_and_with_them_keeps_them(tmp_path):
    theirs = golden.vit(qkv_bias=True)
    ours = golden.imported("monai-vit", theirs.state_dict(), tmp_path, golden.SMALL_OPTIONS)
    assert torch.equal(ours.blocks[1].attention.qkv.bias, theirs.blocks[1].attn.qkv.bias)
    plain = tmp_path / "plain"
    plain.mkdir()
    bare = golden.imported("monai-vit", golden.vit().state_dict(), plain, golden.SMALL_OPTIONS)
    assert not bare.blocks[1].attention.qkv.bias.any()


def test_an_imported_segmenter_serves_other_crops_and_channels(tmp_path):
    theirs = golden.unetr(in_channels=1, res_block=False)
    golden.segmenter(tmp_path, theirs.state_dict())
    ours = mimzoo.load(golden.name_of(tmp_path), crop=(32, 32, 32), in_channels=2)
    assert isinstance(ours.head.blocks[0], Plain)
    assert set(ours.report.adapted) == {"encoder.patch.weight", "head.voxels.conv1.weight"}
    assert ours(torch.randn(1, 2, 32, 32, 32)).shape == (1, 14, 32, 32, 32)
