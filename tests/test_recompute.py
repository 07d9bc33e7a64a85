"""Gradient checkpointing: the same gradients from less memory, in every encoder, decoder and head; else nothing."""

import copy

import pytest
import torch
from conftest import tiny
from torch import nn

from mimzoo import recompute
from mimzoo.cards import override
from mimzoo.errors import ShapeError
from mimzoo.models import build_encoder, build_objective
from mimzoo.pretrain import pretrain
from mimzoo.recipes import Component
from mimzoo.recompute import blocks_of, recompute_blocks
from mimzoo.registry import find, registry

# The variants of a family differ in nothing but their size.
SMALL = {
    "vit": {"patch": [8, 8, 8], "width": 24, "depth": 3, "heads": 2, "drop_path": 0.5},
    "primus": {"patch": [8, 8, 8], "width": 24, "depth": 3, "heads": 2, "drop_path": 0.5},
    "swin": {"width": 12, "depths": [2, 1], "heads": [1, 2], "drop_path": 0.5, "residual_convolutions": True},
    "resenc": {"features": [8, 12, 16], "blocks": [2, 1, 2]},
    "van": {"widths": [8, 16], "depths": [2, 2], "mlp_ratios": [2, 2]},
}
ENCODERS = [offer.name for offer in registry().of_kind("encoder")]
HEADS = [offer.name for offer in registry().of_kind("head") if offer.value.task == "segmentation"]
DECODERS = ["convolution", "transformer"]


def encoder_of(name):
    return build_encoder(Component(name=name, args=SMALL.get(name.partition("-")[0], {})), 1, (32, 32, 32))


def head_of(name):
    """A head, and maps for it: a pyramid, or where it takes none, those of a plain transformer."""
    for channels, strides in (((8, 16, 32), (2, 4, 8)), ((16, 16, 16, 16), (8, 8, 8, 8))):
        try:
            head = find("head", name).load()(
                find("head", name).check({"width": 8}), channels, tuple((s,) * 3 for s in strides), 1, 3
            )
        except ShapeError:
            continue
        return head, [torch.rand(1, c, *[32 // s] * 3) for c, s in zip(channels, strides, strict=True)]
    raise AssertionError(f"{name} takes neither")


def objective_of(decoder):
    given = f"pretraining.decoder={{name: {decoder}, args: {{width: 12, depth: 2}}}}"
    card = override(tiny("pretraining", "vit-mae-phantom"), [given])
    encoder = build_encoder(card.block.encoder, 1, card.block.input.crop)
    return build_objective(card.block.pretraining, encoder, card.block.encoder, card.block.input)


def measured(module, run):
    """The gradients of a module, and how many bytes its forward pass keeps for them besides its parameters."""
    owned = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept, alive = {}, []

    def keep(tensor):
        alive.append(tensor)
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = 0 if storage.data_ptr() in owned else storage.nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = run(module)
    weights = torch.Generator().manual_seed(2)
    torch.stack([(one * torch.randn(one.shape, generator=weights)).sum() for one in found]).sum().backward()
    return {name: parameter.grad for name, parameter in module.named_parameters()}, sum(kept.values())


def check(module, run):
    other = copy.deepcopy(module).train()
    gradients, bytes_ = measured(module.train(), run)
    recompute_blocks(other)
    recomputed, fewer = measured(other, run)
    assert blocks_of(module) and fewer < 0.6 * bytes_
    for name, gradient in gradients.items():
        assert gradient is not None and torch.allclose(recomputed[name], gradient, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_blocks_of_every_encoder_are_recomputed(name):
    volume = torch.rand(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(3))
    check(encoder_of(name), lambda encoder: encoder(volume))


@pytest.mark.parametrize("name", DECODERS)
def test_the_blocks_of_decoders_are_recomputed(name):
    volume = torch.rand(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(3))
    objective = objective_of(name)
    lists = [module for module in objective.decoder.modules() if isinstance(module, nn.ModuleList)]
    assert {id(block) for block in lists[0]} <= {id(block) for block in blocks_of(objective)}
    check(objective, lambda model: [model(volume, torch.Generator().manual_seed(4)).loss])


@pytest.mark.parametrize("name", HEADS)
def test_a_head_computes_the_same_with_its_blocks_recomputed(name):
    head, maps = head_of(name)
    volume = torch.rand(1, 1, 32, 32, 32)
    other = copy.deepcopy(head).train()
    recompute_blocks(other)
    gradients, bytes_ = measured(head.train(), lambda module: [module(maps, volume)])
    recomputed, fewer = measured(other, lambda module: [module(maps, volume)])
    assert fewer <= bytes_
    assert all(torch.allclose(recomputed[name], gradient, atol=1e-6) for name, gradient in gradients.items())


def test_nothing_is_recomputed_in_evaluation_or_without_gradients(monkeypatch):
    encoder, volume = encoder_of("vit-tiny"), torch.rand(1, 1, 32, 32, 32)
    recompute_blocks(encoder)
    monkeypatch.setattr(recompute, "checkpoint", None)
    encoder.eval()(volume)
    with torch.no_grad():
        encoder.train()(volume)
    with pytest.raises(TypeError):
        encoder(volume)


def test_statistics_are_gathered_once():
    args = {**SMALL["van"], "norm": "batch"}
    encoder = build_encoder(Component(name="van-tiny", args=args), 1, (32, 32, 32)).train()
    other = copy.deepcopy(encoder)
    recompute_blocks(other)
    for module in (encoder, other):
        measured(module, lambda module: module(torch.ones(2, 1, 32, 32, 32)))
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in encoder.state_dict().items())


def test_a_recipe_asks_for_it(phantoms, tmp_path, monkeypatch):
    calls, checkpoint = [], recompute.checkpoint
    monkeypatch.setattr(recompute, "checkpoint", lambda *parts, **names: calls.append(1) or checkpoint(*parts, **names))
    card = override(tiny("pretraining", "vit-mae-phantom"), ["pretraining.steps=2", "pretraining.validate_every=1"])
    pretrain(card, phantoms, tmp_path / "plain")
    assert not calls
    pretrain(override(card, ["pretraining.checkpointing=true"]), phantoms, tmp_path / "recomputed")
    # four blocks of the encoder and one of the decoder, once in each step and never in a validation
    assert len(calls) == 2 * 5
