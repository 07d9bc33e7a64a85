"""Every registered component does what its kind promises; and each promise, broken, is noticed."""

import pytest
import torch
from torch import nn

from mimzoo import testing
from mimzoo.registry import registry
from mimzoo.specs import EncoderSpec
from mimzoo.tokens import Tokens
from mimzoo_vit.args import VitArgs
from mimzoo_vit.encoder import VisionTransformer

CHECKS = {
    "encoder": testing.check_encoder,
    "masking": testing.check_masking,
    "decoder": testing.check_decoder,
    "objective": testing.check_objective,
    "head": testing.check_head,
}
# The large ones differ from the small in nothing but their size.
ARGS = {"vit-small": {"depth": 4}, "vit-base": {"depth": 4}}
COMPONENTS = [(kind, offer.name) for kind in CHECKS for offer in registry().of_kind(kind)]


@pytest.mark.parametrize(("kind", "name"), COMPONENTS, ids=lambda value: value)
def test_every_registered_component_conforms(kind, name):
    CHECKS[kind](name, ARGS.get(name))


@pytest.mark.parametrize("positions", ["sincos", "learned"])
@pytest.mark.parametrize("patch", [(8, 8, 4), (2, 4, 8)])
def test_the_vit_conforms_with_other_patches_and_positions(patch, positions):
    args = {"patch": patch, "positions": positions, "width": 24, "depth": 5, "heads": 2, "drop_path": 0.2}
    testing.check_encoder("vit-tiny", args, crop=(16, 16, 16))


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_the_unetr_head_conforms_with_each_norm(norm):
    testing.check_head("unetr", {"norm": norm, "width": 8})


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
