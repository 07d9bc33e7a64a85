"""The one place where specs become torch modules, and where a model's verified weights are loaded."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mimzoo.blocks import CardBlock
from mimzoo.cards import Card
from mimzoo.errors import ShapeError, WeightsError
from mimzoo.hub import find_model
from mimzoo.recipes import Component, Input, Pretraining
from mimzoo.registry import find, registry
from mimzoo.tasks import Task
from mimzoo.tokens import Encoder, Size
from mimzoo.weights import LoadReport, load_state, read_weights

PROBED = 16


class TaskModel(nn.Module):
    """An encoder and the head that turns its maps into the outputs of a task."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder: Encoder = encoder
        self.head = head

    def forward(self, volume: Tensor) -> Tensor:
        """Return logits (B, outputs, X, Y, Z) of a volume (B, C, X, Y, Z), or (B, outputs) where it tells of scans."""
        logits: Tensor = self.head(self.encoder(volume), volume)
        return logits


class Scaled(nn.Module):
    """A head whose outputs are brought to the units of a target, of which `scale` and `shift` are spread and mean."""

    scale: Tensor
    shift: Tensor

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))
        self.input_parameters = tuple(f"head.{name}" for name in getattr(head, "input_parameters", ()))

    def forward(self, maps: list[Tensor], volume: Tensor) -> Tensor:
        """Return the head's outputs in the units of the target."""
        found: Tensor = self.head(maps, volume) * self.scale + self.shift
        return found


def build_encoder(component: Component, in_channels: int, crop: Size) -> Encoder:
    """Return a freshly initialised encoder for volumes (B, in_channels, *crop).

    Raises UnknownNameError or ShapeError when there is no such encoder or it cannot be built like that.
    """
    spec = find("encoder", component.name)
    encoder: Encoder = spec.load()(spec.check(component.args), in_channels, crop)
    return encoder


def build_masking(component: Component) -> Any:
    """Return a masking strategy: called with (volume, generator, mask unit of the encoder) it returns a mask.

    Raises UnknownNameError or ShapeError when there is no such masking or its arguments are wrong.
    """
    spec = find("masking", component.name)
    return spec.load()(spec.check(component.args))


def build_decoder(component: Component, encoder: Encoder, in_channels: int, crop: Size) -> nn.Module:
    """Return a freshly initialised reconstruction decoder for an encoder's tokens, which lie on its coarsest grid.

    Raises UnknownNameError or ShapeError when there is no such decoder or it cannot be built like that.
    """
    spec = find("decoder", component.name)
    args = spec.check(component.args)
    decoder: nn.Module = spec.load()(args, encoder.token_width, encoder.strides[-1], crop, in_channels)
    return decoder


def build_objective(recipe: Pretraining, encoder: Encoder, component: Component, input: Input) -> nn.Module:
    """Return the objective of a recipe over an encoder, which `component` names; state keys `encoder.*` are its own.

    Raises ShapeError when objective, encoder and decoder do not agree on how units are hidden, when a part is missing
    or out of place, or when the masking does not fit crop and encoder; UnknownNameError for a component that nobody
    offers.
    """
    spec = find("objective", recipe.objective.name)
    args = spec.check(recipe.objective.args)
    _check_parts(recipe, spec.needs)
    mode = getattr(args, "mode", None)
    _check_modes(recipe, component, mode)
    channels = len(input.channels)
    masking = None if recipe.masking is None else build_masking(recipe.masking)
    if masking is not None:
        # Draw masks, so that what does not fit is said now and not while training: many of them, for an encoder that
        # can hide only some masks may be able to hide a few random ones.
        volume = torch.zeros(()).expand(PROBED, channels, *input.crop)
        mask = masking(volume, torch.Generator().manual_seed(0), encoder.mask_unit)
        encoder.check_mask(mask, mode == "drop")
    decoder = None if recipe.decoder is None else build_decoder(recipe.decoder, encoder, channels, input.crop)
    objective: nn.Module = spec.load()(args, encoder, masking, decoder)
    return objective


def _check_parts(recipe: Pretraining, needs: tuple[str, ...]) -> None:
    """Raise ShapeError when the recipe lacks a part that its objective needs, or has one that it does not use."""
    for part in ("masking", "decoder"):
        given = getattr(recipe, part) is not None
        if given != (part in needs):
            wanted = "needs" if part in needs else "uses no"
            advice = f"add pretraining.{part}" if part in needs else f"set pretraining.{part}=null"
            raise ShapeError(f"objective {recipe.objective.name!r} {wanted} {part}; {advice}")


def _check_modes(recipe: Pretraining, encoder: Component, mode: str | None) -> None:
    """Raise ShapeError when encoder or decoder do not support the way in which the objective hides units."""
    done = {"drop": "drops hidden units", "replace": "replaces hidden units by a token"}
    for kind, component in (("encoder", encoder), ("decoder", recipe.decoder)):
        modes = () if component is None else find(kind, component.name).modes
        if component is not None and mode is not None and mode not in modes:
            does = done.get(mode, f"hides units by {mode!r}")
            raise ShapeError(
                f"objective {recipe.objective.name!r} {does}, but {kind} {component.name!r} "
                f"supports only {' and '.join(modes)}; choose another objective or {kind}"
            )


def build_head(component: Component, encoder: Encoder, in_channels: int, classes: int) -> nn.Module:
    """Return a freshly initialised head on an encoder's maps, with `classes` outputs (background included).

    Raises UnknownNameError or ShapeError when there is no such head or the encoder's maps do not suit it.
    """
    spec = find("head", component.name)
    args = spec.check(component.args)
    head: nn.Module = spec.load()(args, encoder.channels, encoder.strides, in_channels, classes)
    return head


def build_model(block: CardBlock, crop: Size | None = None, in_channels: int | None = None) -> TaskModel:
    """Return a freshly initialised encoder and head for a card's task, for the card's crop and channels by default.

    Raises UnknownNameError or ShapeError when a part is not there, cannot be built, or does not suit the task.
    """
    recipe, task = block.finetuning, block.task
    assert recipe is not None  # the card has a task
    channels = len(block.input.channels) if in_channels is None else in_channels
    _check_head(recipe.head, task)
    encoder = build_encoder(block.encoder, channels, crop or block.input.crop)
    head = build_head(recipe.head, encoder, channels, len(task.outputs))
    return TaskModel(encoder, Scaled(head) if task.kind == "value" else head)


def _check_head(head: Component, task: Task) -> None:
    """Raise ShapeError when a head answers for voxels where the task asks of scans, or the other way round."""
    wanted = "classification" if task.of_scan else "segmentation"
    if find("head", head.name).task != wanted:
        fit = [offer.name for offer in registry().of_kind("head") if offer.value.task == wanted]
        answers, asks = ("voxels", "whole scans") if task.of_scan else ("whole scans", "voxels")
        raise ShapeError(
            f"head {head.name!r} answers for {answers}, but this card's task asks of {asks}; "
            f"choose {' or '.join(sorted(fit))}"
        )


def load(
    reference: str | Path, device: str | torch.device = "cpu", crop: Size | None = None, in_channels: int | None = None
) -> Any:
    """Return the trained model of a card in evaluation mode: its encoder, or its TaskModel where it has a task.

    `reference` is a bare name, a folder, or `hf://org/name@revision`. For another `crop` or number of `in_channels`
    than the card's, positions are resized and input weights adapted. `.card` is the card, `.report` what was done.
    Raises WeightsError when there are no weights yet, or they are damaged or do not fit; UnknownNameError for a name
    that nobody knows.
    """
    card = find_model(reference)
    state, block = _read(card), card.block
    model: nn.Module
    if block.finetuning is None:
        model = build_encoder(block.encoder, in_channels or len(block.input.channels), crop or block.input.crop)
        report = _fill(nn.ModuleDict({"encoder": model}), state)
    else:
        model = build_model(block, crop, in_channels)
        report = _fill(model, state)
    for name, value in (("card", card), ("report", report)):
        setattr(model, name, value)
    return model.to(device).eval()


def _read(card: Card) -> dict[str, Tensor]:
    weights = card.block.weights
    if weights is None:
        command = "finetune" if card.block.finetuning else "pretrain"
        raise WeightsError(f"{card.name} has no weights yet; train them with: mimzoo {command} {card.name} --data DIR")
    path = card.file("model.safetensors")
    if path is None:
        raise WeightsError(f"{card.name}: model.safetensors is not beside its card in {card.folder}; put it there")
    return read_weights(path, weights.sha256)


def _fill(model: nn.Module, state: dict[str, Tensor]) -> LoadReport:
    """Return the report of loading a card's tensors, named `encoder.*` and, in a segmenter, `head.*`."""

    def names(attribute: str) -> set[str]:
        parts = model.named_children()
        return {f"{part}.{key}" for part, module in parts for key in getattr(module, attribute, ())}

    return load_state(model, state, names("grid_parameters"), names("input_parameters"))
