"""The one place where specs become torch modules, and where a model's verified weights are loaded."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from mimzoo.blocks import CardBlock
from mimzoo.cards import Card
from mimzoo.errors import ShapeError, WeightsError
from mimzoo.hub import find_model
from mimzoo.loaded import Loadable
from mimzoo.recipes import Component, Input, Pretraining
from mimzoo.registry import find, registry
from mimzoo.tasks import Task
from mimzoo.tokens import Encoder, Size
from mimzoo.weights import LoadReport, load_state, read_weights

PROBED = 16


class TaskModel(Loadable):
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
    channels = in_channels or len(block.input.channels)
    encoder = build_encoder(block.encoder, channels, crop or block.input.crop)
    return TaskModel(encoder, build_task_head(block, encoder, channels))


def build_task_head(block: CardBlock, encoder: Encoder, in_channels: int) -> nn.Module:
    """Return a freshly initialised head for a card's task on its encoder; raises errors as `build_model`."""
    recipe, task = block.finetuning, block.task
    assert recipe is not None  # the card has a task
    _check_head(recipe.head, task)
    head = build_head(recipe.head, encoder, in_channels, len(task.outputs))
    return Scaled(head) if task.kind == "value" else head


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
    reference: str | Path,
    *,
    in_channels: int | None = None,
    crop: Size | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    head: str | None = None,
    classes: int | None = None,
    local_files_only: bool = False,
) -> Any:
    """Return the trained model of a card in evaluation mode: its encoder, or its TaskModel where it has a task.

    `reference` is a bare name, a folder, or `hf://org/name@revision`; with `local_files_only` the network is not
    asked. For another `crop` or number of `in_channels` than the card's, positions are resized and input weights
    adapted. `head` asks for a new head of that name and `classes` for that many outputs (background included): what
    of the head is not in the weights is freshly initialised. On what comes back, `.card` is the card, `.report` says
    what was done (as one line on the standard error does), `.features(volume)` gives the maps and
    `.preprocess(scan)` prepares a scan.
    Raises WeightsError when there are no weights yet, or they are damaged or do not fit; UnknownNameError for a name
    that nobody knows; ShapeError when a part cannot be built like that.
    """
    card = find_model(reference, local_files_only=local_files_only)
    model = load_card(card, in_channels=in_channels, crop=crop, dtype=dtype, head=head, classes=classes)
    print(f"mimzoo: {card.name}: {model.report}", file=sys.stderr)
    return model.to(device)


def load_card(
    card: Card,
    *,
    in_channels: int | None = None,
    crop: Size | None = None,
    dtype: torch.dtype | None = None,
    head: str | None = None,
    classes: int | None = None,
) -> Any:
    """Return what `load` does of a card whose files are at hand, on the CPU, and print nothing.

    Modules are built without memory and take over the tensors that are mapped from the file: no weight is
    initialised that is loaded, and none is copied unless its precision or shape changes.
    """
    state = read_state(card)
    seen = _seen(card.block.input, in_channels, crop)
    new_head = head is not None or classes is not None
    with init_empty_weights(include_buffers=False):
        encoder = build_encoder(card.block.encoder, len(seen.channels), seen.crop)
    with nullcontext() if new_head else init_empty_weights(include_buffers=False):
        model = _with_head(card, encoder, len(seen.channels), head, classes)
    report = _fill(model.to(dtype), state, new_head)
    for name, value in (("card", card), ("report", report), ("input", seen)):
        setattr(model, name, value)
    return model.eval()


def _seen(input: Input, in_channels: int | None, crop: Size | None) -> Input:
    """Return what a model sees of a scan when it is asked for other channels or another crop."""
    channels = input.channels
    if in_channels not in (None, len(channels)):
        channels = tuple(f"channel {number}" for number in range(1, int(in_channels or 0) + 1))
    return Input.model_validate({**input.model_dump(), "channels": channels, "crop": tuple(crop or input.crop)})


def _with_head(
    card: Card, encoder: Encoder, channels: int, head: str | None, classes: int | None
) -> Encoder | TaskModel:
    """Return the encoder alone, or with the head of its card, or with the new one that was asked for."""
    recipe = card.block.finetuning
    if head is None and classes is None:
        return encoder if recipe is None else TaskModel(encoder, build_task_head(card.block, encoder, channels))
    if head is None and recipe is None:
        known = ", ".join(offer.name for offer in registry().of_kind("head"))
        raise ShapeError(f"{card.name} is an encoder without a head; name a new one too, such as head='unetr': {known}")
    if classes is None and recipe is None:
        raise ShapeError(f"{card.name} has no task that tells how many outputs a head has; add classes=2 or the like")
    outputs = classes if classes is not None else len(card.block.task.outputs)
    component = recipe.head if head is None and recipe is not None else Component(name=str(head))
    return TaskModel(encoder, build_head(component, encoder, channels, outputs))


def read_state(card: Card) -> dict[str, Tensor]:
    """Return the verified tensors of a card, `encoder.*` and, where it has a task, `head.*`.

    Raises WeightsError when there are none yet, or the file is not there, damaged or another.
    """
    weights = card.block.weights
    if weights is None:
        command = "finetune" if card.block.finetuning else "pretrain"
        raise WeightsError(f"{card.name} has no weights yet; train them with: mimzoo {command} {card.name} --data DIR")
    return read_weights(card.required("model.safetensors"), weights.sha256)


def _fill(model: nn.Module, state: dict[str, Tensor], new_head: bool) -> LoadReport:
    """Return the report of loading a card's tensors, named `encoder.*` and, in a task model, `head.*`."""
    whole = model if isinstance(model, TaskModel) else nn.ModuleDict({"encoder": model})

    def names(attribute: str) -> set[str]:
        parts = whole.named_children()
        return {f"{part}.{key}" for part, module in parts for key in getattr(module, attribute, ())}

    fresh = {key for key in (*whole.state_dict(), *state) if key.startswith("head.")} if new_head else set()
    return load_state(whole, state, names("grid_parameters"), names("input_parameters"), fresh)
