"""Which encoders and heads go together: a fine-tuning step each and a deployed graph, or the reason why not."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mimzoo.errors import ShapeError
from mimzoo.models import TaskModel, build_encoder, build_head
from mimzoo.recipes import Component
from mimzoo.registry import find, registry
from mimzoo.testing.common import require
from mimzoo.tokens import Encoder, Size

CLASSES = 3
LEAST = 32
TOLERANCE = 1e-3
CLEAR_MARGIN = 0.05
Run = Callable[[Tensor], Sequence[Tensor]]
# Returns the deployed form of a module, made with the volume that is given beside it.
Deploy = Callable[[nn.Module, Tensor], Run]


@dataclass(frozen=True)
class Outcome:
    """What came of a family of encoders and a head: both trained and deployed, or the sentence that refused them."""

    family: str
    head: str
    refusal: str | None = None


class Heads(nn.Module):
    """An encoder and several heads on its maps, to be deployed in one go: most of an export is the encoder."""

    def __init__(self, encoder: Encoder, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.encoder, self.heads = encoder, nn.ModuleDict(heads)

    def forward(self, volume: Tensor) -> list[Tensor]:
        """Return the logits of every head for a volume (B, C, X, Y, Z)."""
        maps = self.encoder(volume)
        return [head(maps, volume) for head in self.heads.values()]


def families() -> dict[str, str]:
    """Return an encoder of each family by the family's name, such as `vit-*`: sizes of one architecture are alike."""
    names: dict[str, list[str]] = {}
    for offer in registry().of_kind("encoder"):
        names.setdefault(offer.value.build, []).append(offer.name)
    return {found[0] if len(found) == 1 else f"{found[0].rpartition('-')[0]}-*": found[0] for found in names.values()}


def try_heads(volume: Tensor, deploy: Deploy, args: Mapping[str, Mapping[str, Any]] | None = None) -> Iterator[Outcome]:
    """Yield the outcome of every family of encoders with every head on a volume (B, C, X, Y, Z), or a corner of it.

    `args` are arguments by the name of a family or head. Raises AssertionError for what runs and is wrong.
    """
    known = args or {}
    heads = [Component(name=each.name, args=dict(known.get(each.name, {}))) for each in registry().of_kind("head")]
    for family, name in families().items():
        refusals = try_encoder(Component(name=name, args=dict(known.get(family, {}))), heads, volume, deploy)
        yield from (Outcome(family, head, refusal) for head, refusal in refusals.items())


def try_encoder(
    encoder: Component, heads: Iterable[Component], volume: Tensor, deploy: Deploy
) -> dict[str, str | None]:
    """Return by head None, if it takes a fine-tuning step with the encoder and then deploys rightly, or its refusal.

    They are tried on a corner of the volume (B, C, X, Y, Z): at least 32 voxels and two units of the encoder wide.
    Raises AssertionError when a loss is not finite, no weight moves, or the deployed form computes something else;
    ShapeError when the encoder does not take such a volume at all.
    """
    corner, trained = _corner(encoder, volume), {}
    refusals: dict[str, str | None] = {}
    for head in heads:
        try:
            trained[head.name] = _train(encoder, head, corner)
            refusals[head.name] = None
        except ShapeError as error:
            refusals[head.name] = str(error)
    _compare(encoder.name, trained, corner, deploy)
    return refusals


def _corner(encoder: Component, volume: Tensor) -> Tensor:
    multiple = build_encoder(encoder, volume.shape[1], _size(volume)).crop_multiple
    x, y, z = (max(LEAST, 2 * n) for n in multiple)
    return volume[..., :x, :y, :z]


def _size(volume: Tensor) -> Size:
    return (volume.shape[2], volume.shape[3], volume.shape[4])


def _train(encoder: Component, head: Component, volume: Tensor) -> TaskModel:
    """Return encoder and head after one step on what is bright, or on telling the scans apart."""
    torch.manual_seed(0)
    name, module = f"{encoder.name} with {head.name}", build_encoder(encoder, volume.shape[1], _size(volume))
    model = TaskModel(module, build_head(head, module, volume.shape[1], CLASSES))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    bright, of_voxels = (volume[:, 0] > volume.mean()).long(), find("head", head.name).task == "segmentation"
    loss = functional.cross_entropy(model.train()(volume), bright if of_voxels else torch.arange(volume.shape[0]))
    torch.autograd.backward(loss)
    optimiser.step()
    require(bool(loss.isfinite()), name, f"its loss is {loss.item()}")
    moved = {key for key, value in model.state_dict().items() if not torch.equal(before[key], value)}
    for part in ("encoder", "head"):
        require(any(key.startswith(part) for key in moved), name, f"a step moves no weight of the {part}")
    return model.eval()


@torch.no_grad()
def _compare(encoder: str, trained: Mapping[str, TaskModel], volume: Tensor, deploy: Deploy) -> None:
    """Compare the deployed heads on one encoder with themselves in float64, for one volume and for all of them."""
    if not trained:
        return
    shared = next(iter(trained.values())).encoder
    model = Heads(shared, {name: each.head for name, each in trained.items()}).eval()
    run, exact = deploy(model, volume), copy.deepcopy(model).double()
    for count in (1, volume.shape[0]):
        outputs = zip(trained, run(volume[:count]), exact(volume[:count].double()), strict=True)
        for head, ours, wanted in outputs:
            _check_same(f"{encoder} with {head}, deployed, on {count}", ours, wanted)


def _check_same(name: str, ours: Tensor, wanted: Tensor) -> None:
    require(ours.shape == wanted.shape, name, f"logits {tuple(ours.shape)} and not {tuple(wanted.shape)}")
    difference = float((ours - wanted).abs().max())
    require(difference < TOLERANCE, name, f"logits differ by up to {difference:.1e}")
    best = wanted.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > CLEAR_MARGIN * wanted.std()
    others = int((clear & (ours.argmax(1) != wanted.argmax(1))).sum())
    require(others == 0, name, f"{others} clear decisions are others")


def head_table(outcomes: Iterable[Outcome]) -> str:
    """Return the outcomes as a Markdown table, encoders down and heads across, refusals numbered below it."""
    found = list(outcomes)
    heads = list(dict.fromkeys(each.head for each in found))
    reasons = list(dict.fromkeys(each.refusal for each in found if each.refusal))
    rows = ["| encoder | " + " | ".join(f"`{head}`" for head in heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for family in dict.fromkeys(each.family for each in found):
        cells = [_cell(each, reasons) for each in found if each.family == family]
        rows.append(f"| `{family}` | {' | '.join(cells)} |")
    return "\n".join([*rows, "", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))]).strip()


def _cell(outcome: Outcome, reasons: Sequence[str | None]) -> str:
    return f"no ({1 + reasons.index(outcome.refusal)})" if outcome.refusal else "yes"
