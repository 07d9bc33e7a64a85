"""Which encoders and objectives pretrain together: one step each, or the reason why not."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mimzoo.errors import ShapeError
from mimzoo.models import build_encoder, build_objective
from mimzoo.recipes import Component, Input, Optimiser, Pretraining, ZScore
from mimzoo.registry import find, registry
from mimzoo.testing.common import require

RATIO = 0.75
# Tried in this order: what an encoder cannot hide one way it may hide the other.
MASKINGS = ("random", "uniform")
DECODERS = ("transformer", "linear", "convolution")


@dataclass(frozen=True)
class Outcome:
    """What came of a step: the masking and decoder that it was taken with, or the sentence that refused it."""

    encoder: str
    objective: str
    masking: str | None = None
    decoder: str | None = None
    refusal: str | None = None


def try_grid(volume: Tensor, args: Mapping[str, Mapping[str, Any]] | None = None) -> Iterator[Outcome]:
    """Yield the outcome of a step on `volume` (B, C, X, Y, Z) for every registered encoder and objective.

    `args` are arguments by encoder name. Raises AssertionError for a step that runs and is wrong.
    """
    for encoder in registry().of_kind("encoder"):
        for objective in registry().of_kind("objective"):
            yield try_step(
                Component(name=encoder.name, args=dict((args or {}).get(encoder.name, {}))), objective.name, volume
            )


def try_step(encoder: Component, objective: str, volume: Tensor) -> Outcome:
    """Return the outcome of one optimiser step of an objective over an encoder on a volume (B, C, X, Y, Z).

    Raises AssertionError when the loss is not finite or no weight moves.
    """
    decoder, refusal = _decoder_of(objective), "nothing was tried"
    for masking in MASKINGS if "masking" in find("objective", objective).needs else (None,):
        try:
            _step(encoder, objective, masking, decoder, volume)
            return Outcome(encoder.name, objective, masking, decoder)
        except ShapeError as error:
            refusal = str(error)
    return Outcome(encoder.name, objective, refusal=refusal)


def _decoder_of(objective: str) -> str | None:
    spec = find("objective", objective)
    mode = getattr(spec.check({}), "mode", None)
    if "decoder" not in spec.needs:
        return None
    return next(name for name in DECODERS if mode is None or mode in find("decoder", name).modes)


def _step(encoder: Component, objective: str, masking: str | None, decoder: str | None, volume: Tensor) -> None:
    crop, name = (volume.shape[2], volume.shape[3], volume.shape[4]), f"{encoder.name} with {objective}"
    torch.manual_seed(0)
    module = build_encoder(encoder, volume.shape[1], crop)
    recipe = Pretraining(
        objective=Component(name=objective),
        masking=None
        if masking is None
        else Component(name=masking, args={"ratio": RATIO, "unit": list(module.mask_unit)}),
        decoder=None if decoder is None else Component(name=decoder),
        data="the volume given",
        steps=1,
        batch=volume.shape[0],
        validate_every=1,
        optimiser=Optimiser(lr=1e-3),
    )
    channels = tuple(f"channel {number}" for number in range(volume.shape[1]))
    seen = Input(channels=channels, spacing_mm=(1, 1, 1), intensity=ZScore(mode="zscore"), crop=crop)
    built = build_objective(recipe, module, encoder, seen)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    optimiser = torch.optim.AdamW(built.parameters(), lr=1e-3, weight_decay=0.0)
    loss = built(volume, torch.Generator().manual_seed(0)).loss
    loss.backward()
    optimiser.step()
    require(bool(loss.isfinite()), name, f"its loss is {loss.item()}")
    moved = any(not torch.equal(before[key], value) for key, value in module.state_dict().items())
    require(moved, name, "a step moves no weight of the encoder")


def grid_table(outcomes: Iterable[Outcome]) -> str:
    """Return the outcomes as a Markdown table, encoders down and objectives across, refusals numbered below it."""
    found = list(outcomes)
    objectives = list(dict.fromkeys(each.objective for each in found))
    reasons = list(dict.fromkeys(each.refusal for each in found if each.refusal))
    rows = [f"| encoder | {' | '.join(objectives)} |", "|---" * (1 + len(objectives)) + "|"]
    for encoder in dict.fromkeys(each.encoder for each in found):
        cells = [_cell(each, reasons) for each in found if each.encoder == encoder]
        rows.append(f"| `{encoder}` | {' | '.join(cells)} |")
    return "\n".join([*rows, "", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))]).strip()


def _cell(outcome: Outcome, reasons: Sequence[str | None]) -> str:
    if outcome.refusal:
        return f"no ({1 + reasons.index(outcome.refusal)})"
    parts = [part for part in (outcome.masking, outcome.decoder) if part]
    return ", ".join(parts) or "yes"
