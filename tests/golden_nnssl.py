"""Imported encoders of nnssl beside the classes of dynamic-network-architectures: one golden for each kind of file.

They are held against each other in float64: the 26 blocks of a residual encoder round float32 to 1e-4, each in its way.
"""

from functools import partial

from peers import Golden

# Behind peers, which stands in for torchvision.
# isort: split
import numpy as np
import torch
from dynamic_network_architectures.architectures.primus import Primus
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.eva import Eva
from torch import nn

import mimzoo
from mimzoo.importing import import_checkpoint

SIX = {"features_per_stage": [2, 4, 8, 8, 12, 12], "n_blocks_per_stage": [1, 3, 4, 6, 6, 6]}
SMALL = {"features_per_stage": [4, 8, 8], "n_blocks_per_stage": [1, 2, 1]}
UNEVEN = {
    "features_per_stage": [4, 8, 12, 12],
    "n_blocks_per_stage": [1, 2, 1, 2],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 1, 2]],
}
CNN = {
    "key_to_encoder": "encoder.stages",
    "key_to_stem": "encoder.stem",
    "keys_to_in_proj": ("encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0"),
    "key_to_lpe": None,
}
VIT = {
    "key_to_encoder": "eva",
    "key_to_stem": "down_projection",
    "keys_to_in_proj": ("down_projection.proj",),
    "key_to_lpe": "eva.pos_embed",
}
# Beside an encoder, as nnssl's contrastive and Swin UNETR's pretraining have them.
HEADS = {"projector.layer1.0.weight": (16, 8), "rotation_proj_head.bias": (4,), "recon_proj_head.0.bias": (8,)}


def scans(channels, size):
    """Two z-scored scans (2, channels, *size): air of one value, and in it noise with some very bright voxels."""
    volume = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1)).mul(1.5).add(1)
    volume[volume > 4] *= 3
    volume[..., : size[2] // 3] = -0.6
    volume[0, :, size[0] // 2 :] = -0.6
    return volume.double()


def randomise(model, scale):
    """The model in evaluation, its parameters moved so far that each of them matters."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


def unet(channels=1, features_per_stage=(4, 8, 8), n_blocks_per_stage=(1, 2, 1), strides=None, **built):
    """A small residual U-Net built as nnssl's are, and what its adaptation plan keeps of that."""
    torch.manual_seed(0)
    stages = len(features_per_stage)
    args = {
        "n_stages": stages,
        "features_per_stage": features_per_stage,
        "conv_op": nn.Conv3d,
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": strides or [[1, 1, 1], *[[2, 2, 2]] * (stages - 1)],
        "n_blocks_per_stage": n_blocks_per_stage,
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        **built,
    }
    model = ResidualEncoderUNet(channels, num_classes=1, **args)
    kept = {k: f"{v.__module__}.{v.__name__}" if isinstance(v, type) else v for k, v in args.items()}
    return randomise(model, 0.2), kept


def primus(shape, patch=(4, 4, 4), channels=1, fused=False, **built):
    """A small Primus, with layer scale and inner norm as nnssl's unless they are switched off."""
    torch.manual_seed(0)
    args = {"init_values": 0.1, "scale_attn_inner": True, **built}
    model = Primus(channels, 48, patch, 1, eva_depth=4, eva_numheads=2, input_shape=shape, **args)
    if fused:
        grid = tuple(s // p for s, p in zip(shape, patch, strict=True))
        model.eva = Eva(48, 4, 2, ref_feat_shape=grid, qkv_fused=True, **args)
    return randomise(model, 0.15)


def plan(crop, architecture, keys, kwargs=None, channels=1, **scans):
    """An adaptation plan as nnssl writes it; `crop` is along the axes of its volumes."""
    used = {
        "data_identifier": "nnsslPlans_onemmiso",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing_style": "onemmiso",
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "spacing": [1.0, 1.0, 1.0],
        "patch_size": list(crop),
    }
    pretraining = {
        "dataset_name": "Dataset745_OpenMind",
        "plans_name": "nnsslPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        **scans,
        "configurations": {"onemmiso": used},
    }
    return {
        "architecture_plans": {"arch_class_name": architecture, "arch_kwargs": kwargs},
        "pretrain_plan": pretraining,
        "pretrain_num_input_channels": channels,
        "recommended_downstream_patchsize": (160, 160, 160),
        **keys,
    }


def checkpoint(weights, plan=None, trainer=None):
    """What a trainer of nnssl saves, with numbers of numpy among the rest, as its older versions left them."""
    content = {
        "network_weights": weights,
        "optimizer_state": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": np.float64(1e-2)}]},
        "grad_scaler_state": {"scale": 65536.0, "growth_factor": 2.0},
        "logging": {"train_losses": [np.float32(0.5), np.float32(0.25)], "epoch_start": np.arange(2.0)},
        "_best_ema": np.float64(0.3),
        "current_epoch": 1000,
        "init_args": {"fold": "all", "configuration_name": "onemmiso"},
    }
    named = {"trainer_name": trainer, "nnssl_adaptation_plan": plan}
    return content | {key: value for key, value in named.items() if value is not None}


def imported(folder, format, content, name, **options):
    """What mimzoo makes of a file of that content: its encoder, and the report of its import."""
    torch.save(content, folder / f"{name}.pth")
    report = import_checkpoint(format, folder / f"{name}.pth", name, options)
    return mimzoo.load(name), report


def to(axes, volume):
    """A volume or map (B, C, X, Y, Z) with its axes in that order."""
    return volume.permute(0, 1, *(2 + "xyz".index(axis) for axis in axes))


def back(axes, volume):
    """A volume or map whose axes are in that order as (B, C, X, Y, Z)."""
    return volume.permute(0, 1, *(2 + axes.index(axis) for axis in "xyz"))


@torch.no_grad()
def stages(model, volume, axes):
    """The maps of all stages of a U-Net's encoder."""
    return [back(axes, each) for each in model.encoder(to(axes, volume).contiguous())]


@torch.no_grad()
def quarters(model, volume, axes, raster="fixed"):
    """What a Primus has after each quarter of its blocks, the last normed, as its own forward computes it.

    With the legacy raster its tokens are in a row as in the releases up to 0.4.2 and in nnssl's masked autoencoder.
    """
    rows, volume = [], to(axes, volume).contiguous()
    for module in (*model.eva.blocks[:-1], model.eva.norm):
        module.register_forward_hook(lambda module, given, out: rows.append(out))
    embedded = model.down_projection(volume)
    if raster == "fixed":
        model(volume)
    else:
        embedded = embedded.transpose(2, 3)
        model.eva(embedded.flatten(2).transpose(1, 2))
    maps = [row.transpose(1, 2).unflatten(2, embedded.shape[2:]) for row in rows]
    return [back(axes, each if raster == "fixed" else each.transpose(2, 3)) for each in maps]


def compare(theirs, ours, what):
    """How far the maps of our encoder are from theirs."""
    difference = max((a - b).abs().max().item() for a, b in zip(theirs, ours, strict=True))
    return Golden(difference, min(each.abs().max().item() for each in theirs), what)


@torch.no_grad()
def maps(encoder, volume):
    return encoder.double()(volume)


def along(axes, size):
    """A size (X, Y, Z) in the order of the axes."""
    return tuple(size["xyz".index(axis)] for axis in axes)


def transposed(axes):
    """What the plan says of axes: an order of those that nnU-Net's readers hand over."""
    return {"transpose_forward": ["zyx".index(axis) for axis in axes]}


def encoder_only(weights):
    """The state of a network without a decoder, trained on several devices, with heads of its own."""
    kept = {key: value for key, value in weights.items() if not key.startswith(("decoder.", "up_projection."))}
    ends = {key: torch.randn(shape) for key, shape in HEADS.items()}
    return {f"module.{key}": value for key, value in {**kept, **ends}.items()}


def spark(weights):
    """The state of a network that SparK trained: its layers are two, one of which stays as it was at the beginning."""
    stale = {key for key in weights if "encoder." in key and "all_modules" not in key}
    return {key: torch.randn_like(value) if key in stale else value for key, value in weights.items()}


def resenc(folder, axes="zyx", size=(64, 32, 96), channels=1, sizes=SIX, written=dict, trainer="BaseMAETrainer_BS8"):
    model, kwargs = unet(channels, **sizes)
    said = plan(along(axes, size), "ResidualEncoderUNet", CNN, kwargs, channels, **transposed(axes))
    name = f"golden-resenc-{written.__name__}".replace("_", "-")
    encoder, _ = imported(folder, "nnssl-resenc", checkpoint(written(model.state_dict()), said, trainer), name)
    volume = scans(channels, size)
    theirs = stages(model.double(), volume, axes)
    return compare(theirs, maps(encoder, volume), f"{len(theirs)} maps of ResidualEncoder, whose axes are {axes}")


def resenc_alone(folder):
    """Without a plan, and without biases, as ResidualEncoderUNet is built unless it is told otherwise."""
    model, _ = unet(conv_bias=False)
    encoder, _ = imported(folder, "nnssl-resenc", checkpoint(model.state_dict()), "golden-resenc", crop=(16, 8, 24))
    volume = scans(1, (16, 8, 24))
    return compare(stages(model.double(), volume, "xyz"), maps(encoder, volume), "3 maps of ResidualEncoder")


def simmim(model):
    """The tensors of nnssl's SimMIM: those of Primus, with a learned mask token."""
    return {**model.state_dict(), "mask_token": torch.randn(1, 1, 48)}


def autoencoder(model):
    """The tensors of nnssl's masked autoencoder, whose decoder is a second transformer."""
    decoder = {
        f"decoder.{key}": value for key, value in model.eva.state_dict().items() if not key.startswith("blocks.3")
    }
    return {**simmim(model), **decoder}


def primus_golden(folder, trainer, size, axes="zyx", raster="fixed", patch=(4, 4, 4), written=simmim, **built):
    model = primus(along(axes, size), patch, **built)
    said = plan(along(axes, size), "PrimusM", VIT, **transposed(axes))
    name = f"golden-primus-{raster}"
    encoder, _ = imported(folder, "nnssl-primus", checkpoint(written(model), said, trainer), name, heads=2)
    volume = scans(1, size)
    theirs = quarters(model.double(), volume, axes, raster)
    return compare(theirs, maps(encoder, volume), f"4 maps of Primus, whose axes are {axes}, its raster {raster}")


def primus_x(folder):
    """A Primus whose plan tells its numbers, without layer scale and inner norm, with two channels."""
    model = primus((12, 12, 8), channels=2, init_values=None, scale_attn_inner=False)
    kwargs = {
        "input_channels": 2,
        "embed_dim": 48,
        "patch_embed_size": (4, 4, 4),
        "input_shape": (12, 12, 8),
        "encoder_eva_depth": 4,
        "encoder_eva_numheads": 2,
        "decoder_eva_depth": 1,
        "drop_path_rate": 0.1,
        "init_values": None,
        "scale_attn_inner": False,
    }
    said = plan((12, 12, 8), "PrimusX", VIT, kwargs, channels=2)
    content = checkpoint(autoencoder(model), said, "nnFoundationViT_small_trainer")
    encoder, _ = imported(folder, "nnssl-primus", content, "golden-primus-x")
    volume = scans(2, (8, 12, 12))
    theirs = quarters(model.double(), volume, "zyx", "legacy")
    return compare(theirs, maps(encoder, volume), "4 maps of Primus without layer scale and inner norm")


def primus_alone(folder):
    """Without a plan, its queries, keys and values projected by one layer, its patches no cubes."""
    model = primus((8, 12, 16), patch=(4, 2, 4), fused=True)
    options = {"heads": 2, "crop": (8, 12, 16), "raster": "fixed"}
    encoder, _ = imported(folder, "nnssl-primus", checkpoint(model.state_dict()), "golden-primus", **options)
    volume = scans(1, (8, 12, 16))
    return compare(
        quarters(model.double(), volume, "xyz"), maps(encoder, volume), "4 maps of Primus with fused projections"
    )


GOLDENS = {
    "nnssl-resenc": resenc,
    "nnssl-resenc (two channels, uneven strides)": partial(
        resenc, axes="yzx", size=(24, 16, 32), channels=2, sizes=UNEVEN, written=encoder_only
    ),
    "nnssl-resenc (SparK)": partial(
        resenc, size=(8, 24, 16), sizes=SMALL, written=spark, trainer="SparkMAETrainer_BS8"
    ),
    "nnssl-resenc (no plan)": resenc_alone,
    "nnssl-primus (SimMIM)": partial(
        primus_golden, trainer="SimMIMEvaTrainer_BS8", size=(8, 12, 16), axes="yzx", patch=(4, 2, 4)
    ),
    "nnssl-primus (MAE)": partial(
        primus_golden, trainer="BaseEvaMAETrainer_BS8", size=(8, 12, 12), raster="legacy", written=autoencoder
    ),
    "nnssl-primus (no layer scale, no inner norm)": primus_x,
    "nnssl-primus (no plan)": primus_alone,
}
