"""Weights that a training begins from: those of another card, checked to be computed with as they were trained."""

import json

from torch import nn

from mimzoo.cards import Card
from mimzoo.errors import CardError, ShapeError
from mimzoo.hub import find_model
from mimzoo.models import load_card
from mimzoo.recipes import Component, Pretraining
from mimzoo.registry import find
from mimzoo.tokens import sized
from mimzoo.weights import load_state, read_weights

# What an encoder only does, or only begins from, while it is trained.
TRAINING_ARGS = {"drop_path", "layer_scale"}


def start_encoder(encoder: nn.Module, card: Card, reference: str) -> Card:
    """Return the card of the start, after its verified weights were given to the encoder.

    Raises ShapeError for another encoder, or one that computes otherwise with the same weights; WeightsError unless
    every tensor is there and fits.
    """
    start, block = find_model(reference), card.block
    loaded = load_card(start, crop=block.input.crop, in_channels=len(block.input.channels))
    _check_alike(card, start, reference)
    load_state(encoder, getattr(loaded, "encoder", loaded).state_dict())
    return start


def _check_alike(card: Card, start: Card, reference: str) -> None:
    ours, theirs = card.block.encoder, start.block.encoder
    if ours.name != theirs.name:
        raise ShapeError(
            f"card {card.name} has the encoder {ours.name}, its start {reference} has {theirs.name}; "
            "name a start with the same encoder, or `scratch`"
        )
    asked, given = _computing(ours), _computing(theirs)
    other = {key: value for key, value in given.items() if asked.get(key) != value}
    if other:
        args = json.dumps({**ours.args, **other})
        raise ShapeError(
            f"card {card.name} has the encoder {ours.name} with {_told(other, asked)}, its start {reference} with "
            f"{_told(other, given)}; to use these weights as they were trained, add --set 'encoder.args={args}'"
        )


def _computing(component: Component) -> dict[str, object]:
    """Return all arguments that decide what an encoder computes, defaults included."""
    args = find("encoder", component.name).check(component.args).model_dump(mode="json")
    return {key: value for key, value in args.items() if key not in TRAINING_ARGS}


def _told(keys: dict[str, object], values: dict[str, object]) -> str:
    return ", ".join(f"{key} {values.get(key)}" for key in keys)


def start_objective(objective: nn.Module, card: Card, reference: str) -> str:
    """Return what was taken over of another card's pretraining: the encoder, and all the rest where it fits.

    The rest (decoder, mask token) fits where both recipes have the same objective and decoder for the same crop and
    channels. Raises errors as `start_encoder`.
    """
    start = start_encoder(objective.encoder, card, reference)  # type: ignore[arg-type]
    reason = _why_fresh(card, start)
    if reason is not None:
        return f"begun from the encoder of {reference}; its decoder is fresh, since {reason}"
    artefact, path = start.block.pretraining_weights, start.file("pretraining.safetensors")
    assert artefact is not None and path is not None  # else there is a reason
    rest = read_weights(path, artefact.sha256)
    load_state(objective, {**rest, **{k: v for k, v in objective.state_dict().items() if k.startswith("encoder.")}})
    return f"begun from the encoder and the decoder of {reference}"


def _why_fresh(card: Card, start: Card) -> str | None:
    """Return why the rest of another card's pretraining cannot go on in this one, or None when it can."""
    ours, theirs = card.block.pretraining, start.block.pretraining
    if ours is None:
        raise CardError(f"card {card.name} has no pretraining recipe; name one that has, see `mimzoo list`")
    if theirs is None or start.block.pretraining_weights is None or not start.file("pretraining.safetensors"):
        return "that has no pretraining.safetensors"
    if _learning(ours) != _learning(theirs):
        return "the two recipes have another objective or decoder"
    before, now = start.block.input, card.block.input
    if before.crop != now.crop:
        return f"that was made for crops of {sized(before.crop)}"
    return None if len(before.channels) == len(now.channels) else "that was made for other channels"


def _learning(recipe: Pretraining) -> tuple[Component, Component | None]:
    return recipe.objective, recipe.decoder
