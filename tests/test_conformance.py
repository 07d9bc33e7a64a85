"""Every registered component does what its kind promises; and each promise, broken, is noticed."""

from math import prod

import pytest
import torch
from torch import nn
from torch.nn import functional

from mimzoo import testing
from mimzoo.errors import ShapeError
from mimzoo.registry import find, registry
from mimzoo.specs import EncoderSpec, Spec
from mimzoo.tokens import Tokens, gather_tokens, hidden_index
from mimzoo_mim.objective import MaskedReconstruction
from mimzoo_vit.args import VitArgs
from mimzoo_vit.encoder import VisionTransformer

CHECKS = {
    "encoder": testing.check_encoder,
    "masking": testing.check_masking,
    "decoder": testing.check_decoder,
    "objective": testing.check_objective,
    "head": testing.check_head,
}
# The large ones differ from the small in nothing but their size, so they are checked shallow and narrow, and all on
# small crops. None is a single cell of the last map along Z: there oneDNN's bfloat16 convolutions for AMX give NaN.
RESENC = {"features": [8, 16, 32, 64, 80, 80], "blocks": [1, 1, 1, 1, 1, 1]}
VAN = {"widths": [16, 32, 64, 64], "depths": [1, 1, 2, 1]}
SETTINGS = {
    "vit-small": {"args": {"depth": 4}},
    "vit-base": {"args": {"depth": 4}},
    "primus-small": {"args": {"depth": 4}, "crop": (32, 32, 32)},
    "primus-base": {"args": {"depth": 4}, "crop": (32, 32, 32)},
    "primus-medium": {"args": {"depth": 4}, "crop": (32, 32, 32)},
    "swin-tiny": {"crop": (64, 32, 32)},
    "swin-small": {"args": {"depths": [2, 1, 1, 1], "width": 24}, "crop": (64, 32, 32)},
    "swin-base": {"args": {"depths": [2, 1, 1, 1], "width": 24}, "crop": (64, 32, 32)},
    "resenc-small": {"crop": (64, 32, 64)},
    "resenc-base": {"args": RESENC, "crop": (64, 32, 64)},
    "resenc-large": {"args": RESENC, "crop": (64, 32, 64)},
    "van-tiny": {"crop": (32, 32, 32)},
    "van-small": {"args": VAN, "crop": (32, 32, 32)},
    "van-base": {"args": VAN, "crop": (32, 32, 32)},
}
COMPONENTS = [(kind, offer.name) for kind in CHECKS for offer in registry().of_kind(kind)]


@pytest.mark.parametrize(("kind", "name"), COMPONENTS, ids=lambda value: value)
def test_every_registered_component_conforms(kind, name):
    CHECKS[kind](name, **SETTINGS.get(name, {}))


@pytest.mark.parametrize("positions", ["sincos", "learned"])
@pytest.mark.parametrize("patch", [(8, 8, 4), (2, 4, 8)])
def test_the_vit_conforms_with_other_patches_and_positions(patch, positions):
    args = {"patch": patch, "positions": positions, "width": 24, "depth": 5, "heads": 2, "drop_path": 0.2}
    testing.check_encoder("vit-tiny", args, crop=(16, 16, 16))


@pytest.mark.parametrize("norm", ["instance", "group"])
@pytest.mark.parametrize("head", ["unetr", "upernet", "convolution"])
def test_a_head_with_norms_conforms_with_each(head, norm):
    testing.check_head(head, {"norm": norm, "width": 8})


class Leaky(VisionTransformer):
    """Adds the mean of the whole volume to every token."""

    def encode(self, volume, mask, mask_token=None):
        tokens = super().encode(volume, mask, mask_token)
        return Tokens(tokens.values + 1e-3 * volume.mean(), tokens.mask, tokens.patch, tokens.dropped)


class Shared(VisionTransformer):
    """Has one linear layer under two names."""

    def __init__(self, *args):
        super().__init__(*args)
        self.blocks[1].attention.out = self.blocks[0].attention.out


class Unused(VisionTransformer):
    """Has a parameter that takes no part."""

    def __init__(self, *args):
        super().__init__(*args)
        self.spare = nn.Parameter(torch.zeros(3))


class Careless(VisionTransformer):
    """Does not look at the number of channels or the size of a volume."""

    def _grid(self, volume):
        return tuple(n // p for n, p in zip(volume.shape[2:], self.mask_unit, strict=True))


class Fickle(VisionTransformer):
    """Answers differently every time."""

    def forward(self, volume):
        return [found + torch.rand(()) for found in super().forward(volume)]


class Misdescribed(VisionTransformer):
    """Promises another stride than it has."""

    def __init__(self, *args):
        super().__init__(*args)
        self.strides = ((4, 4, 4),) * 4


BROKEN = {
    Leaky: "hidden voxels leak",
    Shared: "share memory",
    Unused: "no gradient reaches the parameter 'spare'",
    Careless: "too many channels ends in RuntimeError",
    Fickle: "two forward passes",
    Misdescribed: "it promises",
}


@pytest.mark.parametrize(("broken", "sentence"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_encoder_is_noticed(monkeypatch, broken, sentence):
    defaults = {"patch": (8, 8, 8), "width": 24, "depth": 4, "heads": 2}
    spec = EncoderSpec(name="broken", build="", args=VitArgs, defaults=defaults, summary="", source="")
    monkeypatch.setattr("mimzoo.testing.encoders.find", lambda kind, name: spec)
    monkeypatch.setattr(EncoderSpec, "load", lambda spec: broken)
    with pytest.raises(AssertionError, match=f"broken: .*{sentence}"):
        testing.check_encoder("broken", crop=(16, 16, 16))


def masking_of(draw):
    """A masking whose masks `draw(batch, units)` makes."""
    return lambda args: (
        lambda volume, generator, unit: draw(
            volume.shape[0], [n // u for n, u in zip(volume.shape[2:], unit, strict=True)]
        )
    )


class Mixing(nn.Module):
    """A decoder that adds what the samples have in common."""

    def __init__(self, args, token_width, patch, crop, in_channels):
        super().__init__()
        self.voxels = nn.Linear(token_width, in_channels * prod(patch))

    def forward(self, tokens):
        if tokens.dropped:
            raise ShapeError("replaced tokens only")
        return self.voxels(gather_tokens(tokens.values, hidden_index(tokens.mask)) + tokens.values.mean())


class Coarse(nn.Module):
    """A head that stops at half the resolution."""

    def __init__(self, args, channels, strides, in_channels, classes):
        super().__init__()
        self.logits = nn.Conv3d(in_channels, classes, 1)

    def forward(self, maps, volume):
        return self.logits(volume[..., ::2, ::2, ::2])


class Demanding(nn.Module):
    """A head that takes cubic cells only, and does not say so."""

    def __init__(self, args, channels, strides, in_channels, classes):
        super().__init__()
        assert all(len(set(stride)) == 1 for stride in strides)


class Spatial(nn.Module):
    """A head for whole scans that keeps the axes of the volume."""

    def __init__(self, args, channels, strides, in_channels, classes):
        super().__init__()
        self.logits = nn.Conv3d(channels[-1], classes, 1)

    def forward(self, maps, volume):
        return self.logits(maps[-1].mean((2, 3, 4), keepdim=True))


class Boasting(Spatial):
    """A head for whole scans that names maps which it does not look at."""

    used_maps = (0, 3)

    def forward(self, maps, volume):
        return super().forward(maps, volume).flatten(1)


class Silent(Boasting):
    """A head for whole scans that looks at a map which it does not name."""

    used_maps = (3,)

    def forward(self, maps, volume):
        return super().forward(maps, volume) + maps[0].flatten(1)[:, :3]


class Batched(Boasting):
    """A head for whole scans that cannot take a single cell alone."""

    used_maps = (3,)

    def forward(self, maps, volume):
        return super().forward([functional.instance_norm(maps[-1])], volume) + maps[-1].mean((1, 2, 3, 4))[:, None]


class Peeking(MaskedReconstruction):
    """An objective whose masked pictures are not masked."""

    def reconstruct(self, volume, generator):
        _, restored, mask = super().reconstruct(volume, generator)
        return volume, restored, mask


class Deaf(MaskedReconstruction):
    """An objective that draws its own masks."""

    def forward(self, volume, generator):
        return super().forward(volume, torch.Generator().manual_seed(0))


OTHERS = [
    ("masking", "random", masking_of(lambda batch, units: torch.rand(batch, *units) < 0.5), "different numbers"),
    ("masking", "random", masking_of(lambda batch, units: torch.ones(batch, *units, dtype=torch.bool)), "every one"),
    ("decoder", "linear", Mixing, "depends on the others"),
    ("head", "unetr", Coarse, "logits have the shape"),
    ("head", "upernet", Demanding, "flat patches ends in AssertionError"),
    ("head", "mean-pool", Spatial, r"the shape \(2, 3, 1, 1, 1\), not \(2, 3\)"),
    ("head", "mean-pool", Boasting, "map 0 does not reach the logits"),
    ("head", "mean-pool", Silent, "used_maps leaves out map 0"),
    ("head", "mean-pool", Batched, "a crop of one cell .* ends in ValueError"),
    ("objective", "mae", Peeking, "shows hidden voxels"),
    ("objective", "simmim", Deaf, "two seeds give one loss"),
]


@pytest.mark.parametrize(
    ("kind", "name", "broken", "sentence"), OTHERS, ids=lambda value: getattr(value, "__name__", str(value)[-20:])
)
def test_a_broken_component_of_another_kind_is_noticed(monkeypatch, kind, name, broken, sentence):
    spec, load = find(kind, name), Spec.load
    monkeypatch.setattr(Spec, "load", lambda asked: broken if asked == spec else load(asked))
    with pytest.raises(AssertionError, match=f"{name}: .*{sentence}"):
        CHECKS[kind](name)
