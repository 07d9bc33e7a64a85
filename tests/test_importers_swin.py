"""Importers of the Swin family: MONAI's activations from each layout, what is read off a file, what is refused."""

import hashlib
import re

import pytest
import torch
from golden_swin import GOLDENS, activations, imported, monai, pretraining, released, suprem, voco, whole
from monai.networks.nets import swin_unetr

from mimzoo.cards import find_card
from mimzoo.errors import ShapeError, WeightsError
from mimzoo.registry import find
from mimzoo_peers.swin_layout import find_encoder, find_window
from mimzoo_swin.windows import layout

CPU = torch.device("cpu")
INDEX = "layers1.0.blocks.0.attn.relative_position_index"


@pytest.mark.parametrize("name", GOLDENS)
def test_an_imported_model_has_the_activations_of_monais(name, tmp_path):
    found = GOLDENS[name](tmp_path)
    assert found.difference <= 1e-4 and found.largest > 0.1


@pytest.mark.parametrize(("trained", "taken"), [("legacy", "fixed"), ("fixed", "legacy"), ("v2", "fixed")])
def test_with_another_merge_than_that_of_training_the_activations_are_others(trained, taken, tmp_path):
    theirs = monai(trained)
    first, *others = activations(theirs, imported(tmp_path, "monai-swinvit", released(theirs), merge=taken)[0])
    assert torch.equal(*first) and all((a - b).abs().max() > 1e-2 for a, b in others)


@pytest.mark.parametrize(
    "name", ["swinViT.layers4.0.blocks.1.attn.relative_position_bias_table", "encoder3.layer.conv2.conv.weight"]
)
def test_the_comparison_sees_that_one_tensor_changed(name, tmp_path):
    theirs, changed = monai(), whole(monai())
    changed["state_dict"][name] = changed["state_dict"][name].flip(0)
    assert (
        max((a - b).abs().max() for a, b in activations(theirs, imported(tmp_path, "monai-swinunetr", changed)[0]))
        > 1e-2
    )


def read(format, content, **options):
    """What an importer makes of a file's content."""
    spec = find("importer", format)
    return spec.load()(content, spec.check(options))


def same(one, other):
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    return True


def under(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def test_wrappers_and_prefixes_make_no_difference():
    model = monai()
    state, encoder = model.state_dict(), model.swinViT.state_dict()
    plain = read("monai-swinunetr", state)
    for content in (
        {"state_dict": under("module.", state)},
        {"model": under("_orig_mod.", state)},
        {"state_dict": under("module._orig_mod.", state)},
        {"state_dict": under("backbone.", state)},
        {"net": {name.replace("swinViT.", "swin_vit."): value for name, value in state.items()}},
    ):
        assert same(read("monai-swinunetr", content).tensors, plain.tensors)
    plain = read("monai-swinvit", released(model))
    for content in (
        encoder,
        {"model": under("module.", encoder)},
        pretraining(model, "swin_vit"),
        pretraining(model, wrapper=""),
    ):
        assert same(read("monai-swinvit", content).tensors, plain.tensors)
    for content in (suprem(model), suprem(model, "model."), {"net": state}):
        assert same(read("suprem", content).tensors, plain.tensors)


def test_vocos_files_and_the_checkpoints_of_its_code_give_the_same_encoder():
    model = monai(use_v2=True)
    plain, state = read("voco", voco(model)), voco(model)["state_dict"]
    written = under("backbone.", state) | {
        "student.layer1.0.weight": torch.ones(2),
        "teacher.layer3.0.bias": torch.ones(2),
    }
    for content in (
        {"network_weights": state},
        {"net": under("module.", state)},
        {"state_dict": under("module.", written)},
    ):
        assert same(read("voco", content).tensors, plain.tensors)
    assert plain.head is None and plain.input.crop == (64, 64, 64)
    assert (
        read("voco", {"state_dict": written}).left_out["student.layer1.0.weight"] == "belongs to a head of pretraining"
    )


def test_what_is_left_out_is_told_with_its_reason(tmp_path):
    _, report = imported(tmp_path, "monai-swinvit", released(monai()))
    assert (
        report.left_out["rotation_head.bias"]
        == report.left_out["convTrans3d.weight"]
        == "belongs to a head of pretraining"
    )
    assert report.left_out["norm.weight"] == "is a norm that Swin UNETR does not use"
    assert report.left_out[INDEX] == "is rebuilt" and len(report.left_out) == 16
    assert "left out, is rebuilt: 8 tensors such as layers1.0" in str(report)
    part, driven = (read(*given).left_out for given in (("voco", voco(monai())), ("suprem", suprem(monai()))))
    assert part["encoder10.layer.conv1.conv.weight"] == "belongs to a decoder of which the file has only this part"
    names = ("backbone.decoder1.transp_conv.conv.weight", "organ_embedding", "GAP.3.bias")
    assert {driven[name] for name in names} == {"belongs to a decoder that ends in a head driven by text"}
    assert read("monai-swinunetr", whole(monai())).left_out.keys() == {
        name for name in monai().state_dict() if name.endswith("relative_position_index")
    }


def test_a_card_records_where_weights_come_from_and_who_may_pass_them_on(tmp_path):
    model, report = imported(tmp_path, "suprem", suprem(monai()), "suprem-swin")
    file, origin = tmp_path / "suprem-swin.pt", find_card("suprem-swin").block.origin
    assert origin == report.card.block.origin and origin.format == "suprem"
    assert (origin.sha256, origin.bytes) == (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_size)
    assert (origin.licence, origin.republish) == ("CC-BY-NC-ND-4.0", False)
    assert origin.args == {"merge": "legacy", "crop": [64, 64, 32]} and "2501.11253" in origin.citation
    assert model.card.block.kind == "encoder" and model.report.complete()
    assert model.card.block.encoder.model_dump() == {
        "name": "swin-tiny",
        "args": {"width": 12, "window": [4, 4, 4], "merge": "legacy"},
    }


def test_licences_are_those_of_the_published_files():
    licences = {name: find("importer", name) for name in ("monai-swinvit", "monai-swinunetr", "voco", "suprem")}
    assert [(spec.licence, spec.republish) for spec in licences.values()] == [
        ("Apache-2.0", True),
        ("Apache-2.0", True),
        ("unknown", False),
        ("CC-BY-NC-ND-4.0", False),
    ]


@pytest.mark.parametrize(
    ("format", "written", "spacing", "window"),
    [
        ("monai-swinvit", released, (1.5, 1.5, 2.0), (-1000, 1000)),
        ("monai-swinunetr", whole, (1.5, 1.5, 2.0), (-175, 250)),
        ("voco", whole, (1.5, 1.5, 1.5), (-175, 250)),
        ("suprem", suprem, (1.5, 1.5, 1.5), (-175, 250)),
    ],
)
def test_the_input_is_that_of_the_published_training(format, written, spacing, window):
    input = read(format, written(monai())).input
    assert input.channels == ("CT",) and input.crop == (96, 96, 96)
    assert input.spacing_mm == spacing and input.intensity.window_hu == window


def test_several_channels_are_taken_to_be_mr():
    model = swin_unetr.SwinUNETR(4, 3, feature_size=12)
    segmenter = read("monai-swinunetr", whole(model), crop=(128, 128, 128))
    assert segmenter.input.channels == ("channel 1", "channel 2", "channel 3", "channel 4")
    assert segmenter.input.intensity.voxels == "nonzero" and segmenter.input.spacing_mm == (1, 1, 1)
    assert read("suprem", suprem(model)).input.channels == segmenter.input.channels


def shaped(width, depths=(2, 2, 2, 2), heads=(3, 6, 12, 24), convolutions=False):
    """Tensors of a Swin that have the shapes of those that tell of its architecture."""
    state = {
        "patch_embed.proj.weight": torch.empty(width, 1, 2, 2, 2),
        "layers1.0.blocks.0.attn.qkv.bias": torch.empty(1),
    }
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True), start=1):
        for block in range(depth):
            name = f"layers{stage}.0.blocks.{block}"
            state[f"{name}.attn.relative_position_bias_table"] = torch.empty(2197, count)
            state[f"{name}.mlp.linear1.weight"] = torch.empty(4 * width * 2 ** (stage - 1), 1)
        if convolutions:
            state[f"layers{stage}c.0.layer.conv1.conv.weight"] = torch.empty(1)
    return state


@pytest.mark.parametrize(
    ("shape", "name", "args"),
    [
        ({"width": 48}, "swin-small", {}),
        ({"width": 24}, "swin-tiny", {}),
        ({"width": 12}, "swin-tiny", {"width": 12}),
        ({"width": 96, "depths": (2, 2, 6, 2)}, "swin-base", {}),
        # VoCo's three sizes
        ({"width": 48, "convolutions": True}, "swin-small", {"residual_convolutions": True}),
        ({"width": 96, "convolutions": True}, "swin-base", {"depths": [2, 2, 2, 2], "residual_convolutions": True}),
        ({"width": 192, "convolutions": True}, "swin-small", {"width": 192, "residual_convolutions": True}),
    ],
)
def test_the_encoder_is_the_nearest_of_the_zoo_with_what_differs(shape, name, args):
    component, channels = find_encoder(shaped(**shape), "fixed")
    assert (component.name, component.args, channels) == (name, args, 1)
    assert find_encoder(shaped(**shape), "legacy")[0].args == {**args, "merge": "legacy"}


def test_windows_are_told_by_the_indices_or_are_cubes():
    index = layout((4, 3, 5), (4, 3, 5), False, CPU).pairs
    assert find_window(7 * 5 * 9, {INDEX: index.reshape(60, 60)}) == (4, 3, 5)
    assert find_window(13**3, {}) == (7, 7, 7)
    with pytest.raises(WeightsError, match="tables of relative positions have 315 rows, and no cube has a table of so"):
        find_window(7 * 5 * 9, {})
    with pytest.raises(WeightsError, match="have 315 rows, and the indices into it are those of none"):
        find_window(7 * 5 * 9, {INDEX: index, "layers2.0.blocks.0.attn.relative_position_index": index.flip(0)})


def test_outputs_are_numbered_or_the_organs_of_btcv(tmp_path):
    model, _ = imported(tmp_path, "monai-swinunetr", whole(monai(outputs=14)), labels="btcv")
    assert model.card.block.labels == find_card("swin-mae-btcv-seg").block.labels
    assert model.card.block.finetuning.head.model_dump() == {"name": "swin-unetr", "args": {}}
    assert read("monai-swinunetr", whole(monai())).labels == {1: "class 1", 2: "class 2"}
    assert read("voco", whole(monai(outputs=21))).labels[20] == "class 20"


@pytest.mark.parametrize(
    ("outputs", "labels", "sentence"),
    [
        (3, "btcv", "labels=btcv names 13 organs beside the background, but it has 3 outputs; use labels=numbered"),
        (1, "numbered", "it has 1 output, but exclusive labels need two or more, the background among them"),
    ],
)
def test_labels_that_do_not_fit_the_outputs_are_refused(outputs, labels, sentence):
    with pytest.raises(WeightsError, match=re.escape(sentence)):
        read("monai-swinunetr", whole(monai(outputs=outputs)), labels=labels)


def without(name):
    state = monai().state_dict()
    return {key: value for key, value in state.items() if not key.startswith(name)}


def doubled():
    state = monai().state_dict()
    return state | {"backbone.swinViT.patch_embed.proj.bias": torch.zeros(12)}


@pytest.mark.parametrize(
    ("format", "content", "sentence"),
    [
        ("monai-swinvit", lambda: whole(monai()), "of another layout: 33 of its .* tensors have names .* encoder1"),
        (
            "suprem",
            lambda: released(monai()),
            "of another layout: 134 of its 134 tensors have names .* patch_embed.proj.weight",
        ),
        (
            "voco",
            lambda: without("out."),
            "20 of its .* tensors have names that this format does not know, such as decoder5",
        ),
        (
            "monai-swinunetr",
            lambda: voco(monai()),
            "it has no layer 'out.conv.conv', so that it is not a whole Swin UNETR",
        ),
        (
            "monai-swinunetr",
            lambda: without("swinViT.layers3"),
            "no whole Swin: of its .* none is called 'layers3.0.block",
        ),
        ("monai-swinunetr", lambda: without("swinViT.patch"), "none is called 'patch_embed.proj.weight'"),
        (
            "monai-swinunetr",
            doubled,
            "two of its tensors would be called 'encoder.patch.bias' here, one of them 'backbone",
        ),
        ("monai-swinunetr", lambda: {"state_dict": {}, "epoch": 1}, "there are no tensors in it"),
        (
            "monai-swinunetr",
            lambda: swin_unetr.SwinUNETR(1, 2, feature_size=12, norm_name=("group", {"num_groups": 2})).state_dict(),
            "names that this format does not know, such as encoder1.layer.norm1.weight",
        ),
        (
            "monai-swinunetr",
            lambda: swin_unetr.SwinUNETR(1, 2, feature_size=12, spatial_dims=2).state_dict(),
            "it is a network for images: its patches have two axes, and volumes have three",
        ),
    ],
)
def test_files_of_another_layout_are_refused(format, content, sentence):
    with pytest.raises(WeightsError, match=sentence):
        read(format, content())


def test_a_file_that_lacks_a_tensor_or_a_crop_that_cannot_be_leave_nothing_behind(tmp_path, home):
    with pytest.raises(WeightsError, match="these weights do not fit the module: 1 missing: head.ups.2.weight"):
        imported(tmp_path, "monai-swinunetr", without("decoder3.transp_conv"))
    with pytest.raises(ShapeError, match="crop 60 x 64 x 64 .* 32 x 32 x 32"):
        imported(tmp_path, "monai-swinunetr", whole(monai()), crop=(60, 64, 64))
    with pytest.raises(ShapeError, match="argument 'merge'"):
        imported(tmp_path, "monai-swinunetr", whole(monai()), merge="mergingv2")
    assert not list(home.rglob("*.safetensors"))
