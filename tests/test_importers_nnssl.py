"""Importers of nnssl: the maps of its own classes, the plan that a file has of itself, and files that are refused."""

import re

import golden_nnssl as golden
import nibabel
import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.primus import PrimusM
from dynamic_network_architectures.building_blocks.residual import BottleneckD
from safetensors.torch import save_file
from torch import nn

import mimzoo
from mimzoo.errors import ShapeError, WeightsError
from mimzoo.importing import import_checkpoint
from mimzoo.recipes import Component, ZScore
from mimzoo_peers.args import PrimusImport, ResEncImport
from mimzoo_peers.nnssl_primus import read_primus
from mimzoo_peers.nnssl_resenc import read_resenc

MAE, SIMMIM = "BaseEvaMAETrainer_BS8", "SimMIMEvaTrainer_BS8"
CUBE = (12, 12, 12)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MIMZOO_HOME", str(tmp_path / "home"))


def unet(**plan):
    """The content of a file with a small U-Net, and the peer."""
    model, kwargs = golden.unet()
    said = golden.plan((16, 16, 16), "ResidualEncoderUNet", golden.CNN, {**kwargs, **plan})
    return golden.checkpoint(dict(model.state_dict()), said, "BaseMAETrainer"), model


def primus(shape=CUBE, trainer=MAE, kwargs=None, **built):
    """The content of a file with a small Primus, and the peer."""
    model = golden.primus(shape, **built)
    said = golden.plan(shape, "PrimusM", golden.VIT, kwargs)
    return golden.checkpoint(golden.simmim(model), said, trainer), model


def read(content, **options):
    if any("pos_embed" in name for name in content["network_weights"]):
        return read_primus(content, PrimusImport.model_validate({"heads": 2, **options}))
    return read_resenc(content, ResEncImport.model_validate(options))


def apart(theirs, ours):
    return max((a - b).abs().max().item() for a, b in zip(theirs, ours, strict=True))


@pytest.mark.parametrize("name", golden.GOLDENS)
def test_an_imported_encoder_computes_what_its_own_class_does(name, tmp_path):
    found = golden.GOLDENS[name](tmp_path)
    assert found.difference < 1e-6 and found.largest > 0.1


@pytest.mark.parametrize(
    "options", [{"raster": "fixed"}, {"axes": "xyz"}, {"heads": 4}, {"axes": "yzx"}], ids=lambda options: str(options)
)
def test_another_raster_other_axes_or_other_heads_load_and_compute_something_else(options, tmp_path):
    content, model = primus()
    encoder, _ = golden.imported(tmp_path, "nnssl-primus", content, "other", **{"heads": 2, **options})
    volume = golden.scans(1, CUBE)
    theirs = golden.quarters(model.double(), volume, "zyx", "legacy")
    assert apart(theirs, golden.maps(encoder, volume)) > 0.01


def test_one_tensor_that_differs_shows(tmp_path):
    content, model = unet()
    encoder, _ = golden.imported(tmp_path, "nnssl-resenc", content, "changed")
    volume = golden.scans(1, (16, 8, 8))
    assert apart(golden.stages(model.double(), volume, "zyx"), golden.maps(encoder, volume)) < 1e-6
    model.encoder.stages[1].blocks[1].conv2.norm.bias.data[0] += 0.1
    assert apart(golden.stages(model, volume, "zyx"), golden.maps(encoder, volume)) > 0.01


def test_as_it_is_loaded_in_float32_it_is_as_near_as_rounding_lets_it(tmp_path):
    content, model = primus(trainer=SIMMIM)
    encoder, _ = golden.imported(tmp_path, "nnssl-primus", content, "single", heads=2)
    volume = golden.scans(1, CUBE).float()
    with torch.no_grad():
        assert apart(golden.quarters(model, volume, "zyx"), encoder(volume)) < 1e-5


def test_a_scan_gives_the_maps_that_nnssl_makes_of_it(tmp_path):
    """nnssl reads the axes of a file in reverse, and z-scores it as a whole."""
    content, model = unet()
    content["nnssl_adaptation_plan"]["pretrain_plan"]["configurations"]["onemmiso"]["patch_size"] = [8, 16, 24]
    encoder, _ = golden.imported(tmp_path, "nnssl-resenc", content, "scanned")
    voxels = golden.scans(1, (24, 16, 8))[1, 0].mul(100).add(80).numpy().astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "scan.nii.gz")
    read = torch.from_numpy(voxels).permute(2, 1, 0)[None, None]
    with torch.no_grad():
        theirs = model.encoder((read - read.mean()) / read.std(correction=0))
        ours = encoder(encoder.preprocess(tmp_path / "scan.nii.gz"))
    assert ours[0].shape == (1, 4, 24, 16, 8)
    assert apart([each.permute(0, 1, 4, 3, 2) for each in theirs], ours) < 1e-4


def test_the_card_says_where_the_weights_come_from_and_how_scans_were_prepared(tmp_path):
    content, _ = primus((8, 8, 12))
    encoder, report = golden.imported(tmp_path, "nnssl-primus", content, "small", heads=2)
    origin, seen = encoder.card.block.origin, encoder.card.block.input
    assert origin.format == "nnssl-primus" and origin.file == "small.pth" and len(origin.sha256) == 64
    assert origin.licence == "CC-BY-4.0" and "2412.17041" in origin.citation and origin.args == {"heads": 2}
    assert seen.channels == ("MR",) and seen.spacing_mm == (1.0, 1.0, 1.0) and seen.crop == (12, 8, 8)
    assert seen.intensity == ZScore(mode="zscore", voxels="all")
    assert "left out, belongs to the decoder of pretraining: 6 tensors such as up_projection.decode" in str(report)
    assert "left out, stands for hidden tokens in pretraining: 1 tensors such as mask_token" in str(report)


def test_the_plan_tells_spacing_crop_and_axes():
    content, _ = primus((8, 8, 12))
    pretraining = content["nnssl_adaptation_plan"]["pretrain_plan"]
    used = pretraining["configurations"]["onemmiso"]
    used.update(spacing=[3.0, 1.0, 2.0], use_mask_for_norm=[True])
    seen = read(content).input
    assert seen.spacing_mm == (2.0, 1.0, 3.0) and seen.crop == (12, 8, 8) and seen.intensity.voxels == "nonzero"
    used["spacing"] = None
    pretraining.update(original_median_spacing_after_transp=[0.9, 0.8, 0.7], transpose_forward=[1, 0, 2])
    seen = read(content).input
    assert seen.spacing_mm == (0.7, 0.9, 0.8) and seen.crop == (12, 8, 8)
    content["nnssl_adaptation_plan"]["pretrain_patch_size"] = (8, 8, 16)
    with pytest.raises(WeightsError, match="it has 12 positions, but the crop 16 x 8 x 8 has 16 patches"):
        read(content)


def test_every_other_name_of_a_tensor_is_left_out_and_every_tensor_is_accounted_for():
    content, _ = unet()
    imported = read(content)
    names = set(content["network_weights"])
    reasons = imported.left_out
    assert reasons["encoder.stem.convs.0.conv.weight"] == "repeats another of its tensors"
    assert reasons["decoder.encoder.stages.0.blocks.0.conv1.conv.weight"] == "repeats another of its tensors"
    assert reasons["decoder.seg_layers.0.weight"] == "belongs to the decoder of pretraining"
    assert len(imported.tensors) + len(reasons) == len(names) and reasons.keys() < names


def test_the_published_networks_are_imported_as_what_they_are():
    """Their tensors without memory: what is told from them is their shapes."""
    with torch.device("meta"):
        cnn, _ = golden.unet(1, [32, 64, 128, 256, 320, 320], [1, 3, 4, 6, 6, 6])
        vit = PrimusM(1, 1, (8, 8, 8), (160, 160, 160))
    for weights, keys, architecture, reader, args, name in (
        (once(cnn.state_dict()), golden.CNN, "ResEncL", read_resenc, ResEncImport(), "resenc-large"),
        (vit.state_dict(), golden.VIT, "PrimusM", read_primus, PrimusImport(), "primus-medium"),
    ):
        said = golden.plan((160, 160, 160), architecture, keys)
        imported = reader(golden.checkpoint(weights, said, MAE), args)
        assert imported.encoder == Component(name=name) and imported.input.crop == (160, 160, 160)


def test_what_is_no_published_size_is_one_with_other_arguments():
    content, _ = unet()
    assert read(content).encoder.args == {"features": [4, 8, 8], "blocks": [1, 2, 1]}
    content, _ = primus(kwargs={"drop_path_rate": 0.1}, scale_attn_inner=False)
    sizes = {"patch": [4, 4, 4], "width": 48, "depth": 4, "heads": 2}
    assert read(content).encoder.args == {**sizes, "drop_path": 0.1, "inner_norm": False}


def test_without_a_plan_shapes_tell_what_they_can():
    content, _ = primus()
    del content["nnssl_adaptation_plan"]
    assert read(content).input.crop == CUBE
    content, _ = unet()
    del content["nnssl_adaptation_plan"]
    assert read(content).input.crop == (160, 160, 160)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_and_prefixes_make_no_difference(prefix):
    content, _ = primus()
    wrapped = {"state_dict": {f"{prefix}{name}": each for name, each in content["network_weights"].items()}}
    plain, found = read(content), read_primus({**content, "network_weights": None, **wrapped}, PrimusImport(heads=2))
    assert found.tensors.keys() == plain.tensors.keys() and found.encoder == plain.encoder


def test_a_network_within_another_is_found_by_the_keys_of_its_plan():
    content, _ = primus()
    inner = {f"encoder.{name}": each for name, each in content["network_weights"].items()}
    ends = {"projector.layer1.0.weight": torch.ones(2, 2), "rotation_proj_head.weight": torch.ones(2, 2)}
    content["network_weights"] = {**inner, **ends}
    content["nnssl_adaptation_plan"].update(key_to_encoder="encoder.eva", key_to_stem="encoder.down_projection")
    imported = read(content)
    assert imported.left_out["projector.layer1.0.weight"] == "belongs to a head of pretraining"
    assert imported.left_out["encoder.mask_token"] == "stands for hidden tokens in pretraining"


def once(weights):
    """The tensors of a U-Net's encoder, each by one name."""
    return {k: v.clone() for k, v in weights.items() if "all_modules" not in k and "decoder." not in k}


def test_a_safetensors_file_of_an_encoder_alone_is_imported(tmp_path):
    content, _ = unet()
    save_file(once(content["network_weights"]), tmp_path / "alone.safetensors")
    import_checkpoint("nnssl-resenc", tmp_path / "alone.safetensors", "alone", {"crop": (16, 16, 16)})
    assert mimzoo.load("alone").channels == (4, 8, 8)


def test_names_of_one_tensor_that_hold_different_ones_are_an_error(tmp_path):
    content, _ = unet()
    layer = "encoder.stages.1.blocks.0.conv1"
    content["network_weights"][f"decoder.{layer}.all_modules.1.weight"] = torch.zeros(8)
    names = f"'{layer}.all_modules.1.weight' and 'decoder.{layer}.all_modules.1.weight'"
    sentence = f"cannot be imported as nnssl-resenc: {names} are names of one tensor, but hold different ones"
    with pytest.raises(WeightsError, match=re.escape(sentence)):
        golden.imported(tmp_path, "nnssl-resenc", content, "twofold")


def test_copies_that_were_never_trained_are_left_out_of_spark_and_an_error_elsewhere():
    model, kwargs = golden.unet()
    said = golden.plan((16, 16, 16), "ResidualEncoderUNet", golden.CNN, kwargs)
    content = golden.checkpoint(golden.spark(model.state_dict()), said, "SparkMAETrainer_BS8")
    reasons = read(content).left_out
    assert reasons["encoder.stem.convs.0.conv.weight"] == "is a copy that SparK never trained"
    assert reasons["decoder.encoder.stem.convs.0.all_modules.0.weight"] == "repeats another of its tensors"
    with pytest.raises(WeightsError, match="are names of one tensor, but hold different ones"):
        read({**content, "trainer_name": "BaseMAETrainer_BS8"})


@pytest.mark.parametrize(
    ("built", "sentence"),
    [
        ({"kernel_sizes": [[1, 3, 3], 3, 3]}, "it has kernels of 1 x 3 x 3, but only those of 3 x 3 x 3 are computed"),
        ({"stem_channels": 6}, r"its stem has 6 features and its stages \[4, 8, 8\], but the first must have as many"),
        (
            {"norm_op": nn.BatchNorm3d},
            "says norm_op torch.nn.modules.batchnorm.BatchNorm3d, but only InstanceNorm3d is",
        ),
        (
            {"block": BottleneckD, "bottleneck_channels": 4},
            "it is of another layout: .* such as encoder.stages.0.blocks.0",
        ),
    ],
)
def test_a_residual_network_that_computes_something_else_is_refused(built, sentence):
    model, kwargs = golden.unet(**built)
    content = golden.checkpoint(
        model.state_dict(), golden.plan((16, 16, 16), "ResidualEncoderUNet", golden.CNN, kwargs)
    )
    with pytest.raises(WeightsError, match=sentence):
        read(content)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"features_per_stage": [4, 8, 16]}, r"says features_per_stage \[4, 8, 16\], but its tensors say \[4, 8, 8\]"),
        ({"n_blocks_per_stage": 2}, r"says n_blocks_per_stage 2, but its tensors say \[1, 2, 1\]"),
        (
            {"strides": [1, [1, 1, 1], 2]},
            r"stage 2 would have stride 1 x 1 x 1, which its tensor '\S+skip.1.conv.weight'",
        ),
    ],
)
def test_a_plan_that_contradicts_the_tensors_is_refused(said, sentence):
    content, _ = unet(**said)
    with pytest.raises(WeightsError, match=sentence):
        read(content)


def test_strides_that_a_file_does_not_tell_are_an_option(tmp_path):
    model, _ = golden.unet(features_per_stage=(4, 8, 8), strides=[[1, 1, 1], [2, 1, 1], [2, 2, 2]])
    content = golden.checkpoint(model.state_dict())
    given = {"strides": [1, [2, 1, 1], 2], "crop": (16, 8, 8)}
    encoder, _ = golden.imported(tmp_path, "nnssl-resenc", content, "strided", **given)
    volume = golden.scans(1, (16, 8, 8))
    assert apart(golden.stages(model.double(), volume, "xyz"), golden.maps(encoder, volume)) < 1e-6
    with pytest.raises(ShapeError, match="3 features, 3 blocks, 2 strides; give them in equal number"):
        read(content, strides=(1, 2))
    with pytest.raises(WeightsError, match=r"contradicts; give the strides with --option strides=\[1,2,...\]"):
        read(content, strides=(1, 1, 2))


def test_a_file_that_lacks_a_tensor_leaves_nothing_behind(tmp_path):
    content, _ = primus()
    del content["network_weights"]["eva.blocks.2.mlp.fc2.bias"]
    with pytest.raises(WeightsError, match="1 missing: encoder.blocks.2.mlp.out.bias"):
        golden.imported(tmp_path, "nnssl-primus", content, "gappy", heads=2)
    assert not list((tmp_path / "home").rglob("*gappy*"))


@pytest.mark.parametrize(
    ("reader", "args", "sentence"),
    [
        (
            read_resenc,
            ResEncImport(),
            "it is of another layout: it has no tensor 'down_projection.convs.0.conv.weight'",
        ),
        (read_primus, PrimusImport(), "it does not say how many heads share its 48 channels; add --option heads=N"),
        (
            read_primus,
            PrimusImport(heads=2, crop=(12, 12, 8)),
            "it has 27 positions, but the crop 12 x 12 x 8 has 18 patches",
        ),
    ],
)
def test_what_does_not_fit_a_primus_is_refused(reader, args, sentence):
    content, _ = primus()
    with pytest.raises(WeightsError, match=sentence):
        reader(content, args)


def test_heads_that_do_not_divide_its_width_are_refused():
    with pytest.raises(ShapeError, match="width 48 must be a multiple of 6 x heads = 30"):
        read(primus()[0], heads=5)


def test_a_primus_whose_trainer_is_unknown_asks_for_its_raster():
    content, _ = primus(trainer="MyOwnTrainer")
    with pytest.raises(
        WeightsError, match="MyOwnTrainer does not tell the order of its tokens; add --option raster=legacy for nnssl's"
    ):
        read(content)
    assert read(content, raster="fixed").encoder.name == "primus-small"


def test_of_a_primus_without_a_trainer_it_is_said_that_its_raster_is_taken_to_be_fixed():
    content, _ = primus(trainer=None)
    assert "raster fixed, as it names no trainer" in read(content).notes


def test_a_legacy_raster_on_a_grid_of_two_lengths_is_refused():
    content, _ = primus((8, 12, 8))
    with pytest.raises(
        WeightsError, match="its grid is 2 long along the first axis of training and 3 along the second"
    ):
        read(content)


def test_register_tokens_are_refused():
    content, _ = primus(num_register_tokens=4)
    with pytest.raises(WeightsError, match="it was trained with 4 register tokens, which no encoder here has"):
        read(content)


def test_a_grid_that_nothing_tells_is_asked_for():
    content, _ = primus((8, 8, 12))
    del content["nnssl_adaptation_plan"]
    with pytest.raises(WeightsError, match=r"its 12 positions fill no cube, .* with --option crop=\[X,Y,Z\]"):
        read(content)
    assert read(content, crop=(8, 8, 12)).input.crop == (8, 8, 12)


@pytest.mark.parametrize(
    "pretraining", [{"transpose_forward": [0, 1]}, {"configurations": {"onemmiso": {"patch_size": [8]}}}]
)
def test_a_plan_that_is_not_written_as_nnssl_does_is_refused(pretraining):
    content, _ = primus()
    content["nnssl_adaptation_plan"]["pretrain_plan"] = pretraining
    with pytest.raises(WeightsError, match="its adaptation plan is not one of nnssl's"):
        read(content)
