"""Imported models of the Swin family beside MONAI's own: one golden for each layout of a file."""

from functools import partial

import torch
from monai.networks.nets import swin_unetr
from monai_swin import LegacyMerging, randomise
from peers import Golden

import mimzoo
from mimzoo.blocks import slug_of
from mimzoo.importing import import_checkpoint

# Of 12 features, where MONAI's own windows of 7 cells take long
SMALL = {"feature_size": 12, "window_size": 4}
OTHER = {"window_size": (4, 3, 5), "depths": (1, 3, 1, 2), "num_heads": (2, 3, 4, 6), "mlp_ratio": 2, "qkv_bias": False}
MERGES = {"legacy": LegacyMerging, "fixed": "merging", "v2": "mergingv2"}
SIZE = (64, 64, 32)


def crops():
    """Two crops as a HU window leaves them: air at 0, bone at 1, noise between. The coarsest map has four cells.

    With fewer, instance norm makes much of the rounding in either model.
    """
    volume = torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(1)).mul(0.5).clamp(0, 1)
    volume[:, :, 40:] = 0
    volume[0, :, 8:20, 10:22, 4:12] = 1
    return volume


def monai(merge="legacy", outputs=3, **args):
    """A small Swin UNETR of MONAI, all of whose parameters are random."""
    torch.manual_seed(0)
    return randomise(swin_unetr.SwinUNETR(1, outputs, downsample=MERGES[merge], **{**SMALL, **args}))


def heads(**convolutions):
    """The tensors of the heads of pretraining."""
    shapes = {"rotation_head": (4, 192), "contrastive_head": (512, 192), **convolutions}
    weights = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    return {**weights, **{f"{name}.bias": torch.randn(shape[0]) for name, shape in shapes.items()}}


def released(model):
    """The content of `model_swinvit.pt`: an encoder without a prefix of its own, whose perceptrons are fc1 and fc2."""
    state = {name.replace("mlp.linear", "mlp.fc"): value for name, value in model.swinViT.state_dict().items()}
    state |= {"norm.weight": torch.randn(192), "norm.bias": torch.randn(192), **heads(convTrans3d=(192, 1, 2, 2, 2))}
    return {"epoch": 1, "state_dict": {f"module.{name}": value for name, value in state.items()}}


def pretraining(model, encoder="swinViT", wrapper="module."):
    """The content of a checkpoint that the code of pretraining writes, on several GPUs if there is a wrapper."""
    state = {f"{encoder}.{name}": value for name, value in model.swinViT.state_dict().items()}
    state |= heads(**{"conv.0": (96, 192, 3, 3, 3), "conv.20": (1, 12, 1, 1, 1)})
    named = {f"{wrapper}{name}": value for name, value in state.items()}
    return {"epoch": 1, "state_dict": named, "optimizer": {"param_groups": [{"lr": 1e-4}]}}


def whole(model):
    """The content of the files of BTCV."""
    return {"epoch": 1, "best_acc": 0.8, "state_dict": model.state_dict()}


def voco(model):
    """The content of VoCo's `SSL_head` files: the encoder, and those blocks of the decoder that it pretrains."""
    parts = ("swinViT.", "encoder")
    return {"state_dict": {name: value for name, value in model.state_dict().items() if name.startswith(parts)}}


def suprem(model, first="module."):
    """The content of SuPreM's files: a Swin UNETR without its last layer, in a model that is driven by text."""
    state = {f"backbone.{name}": value for name, value in model.state_dict().items() if not name.startswith("out.")}
    others = ("precls_conv.0", "precls_conv.2", "GAP.0", "GAP.3", "controller", "text_to_vision")
    state |= {f"{name}.{kind}": torch.randn(8) for name in others for kind in ("weight", "bias")}
    state["organ_embedding"] = torch.randn(25, 512)
    return {"net": {f"{first}{name}": value for name, value in state.items()}, "optimizer": {}, "epoch": 1}


def imported(folder, format, content, name="imported", **options):
    """What mimzoo makes of a file of that content: its model, and the report of the import."""
    torch.save(content, folder / f"{name}.pt")
    report = import_checkpoint(format, folder / f"{name}.pt", name, {"crop": SIZE, **options})
    return mimzoo.load(name), report


@torch.no_grad()
def activations(theirs, ours):
    """Pairs of what either model computes: five maps, and logits where ours is a segmenter."""
    volume, maps = crops(), []
    if not hasattr(ours, "head"):
        return list(zip(theirs.swinViT(volume, normalize=True), ours(volume), strict=True))
    hook = theirs.swinViT.register_forward_hook(lambda module, inputs, outputs: maps.extend(outputs))
    logits = theirs(volume)
    hook.remove()
    found = ours.encoder(volume)
    return [*zip(maps, found, strict=True), (logits, ours.head(found, volume))]


def golden(folder, name, format, written, merge="legacy", **args):
    theirs = monai(merge, **args)
    pairs = activations(theirs, imported(folder, format, written(theirs), name, merge=merge)[0])
    difference = max((a - b).abs().max().item() for a, b in pairs)
    what = "five maps and the logits of MONAI's SwinUNETR" if len(pairs) > 5 else "five maps of MONAI's SwinTransformer"
    return Golden(difference, max(a.abs().max().item() for a, _ in pairs), what)


CASES = {
    "monai-swinvit": {"written": released, "window_size": 7},
    "monai-swinvit (fixed merge)": {"written": released, "merge": "fixed"},
    "monai-swinvit (v2 merge)": {"written": released, "merge": "v2"},
    "monai-swinvit (written by its code)": {"written": pretraining},
    "monai-swinunetr (v1, legacy merge)": {"written": whole},
    "monai-swinunetr (v1, fixed merge)": {"written": whole, "merge": "fixed"},
    "monai-swinunetr (v1, v2 merge)": {"written": whole, "merge": "v2"},
    "monai-swinunetr (v2, legacy merge)": {"written": whole, "use_v2": True},
    "monai-swinunetr (v2, fixed merge)": {"written": whole, "use_v2": True, "merge": "fixed"},
    "monai-swinunetr (v2, v2 merge)": {"written": whole, "use_v2": True, "merge": "v2"},
    "monai-swinunetr (other windows, depths, heads)": {"written": whole, **OTHER},
    "voco": {"written": voco, "use_v2": True},
    "voco (VoComni)": {"written": whole, "use_v2": True, "outputs": 21},
    "suprem": {"written": suprem},
}
GOLDENS = {
    case: partial(golden, name=f"golden-{slug_of(case)}", format=case.split(" ")[0], **args)
    for case, args in CASES.items()
}
