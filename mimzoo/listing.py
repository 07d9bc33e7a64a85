"""Tables for the eye: the models that have a name, the plugins and what they offer. No torch."""

import fnmatch
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from rich.console import Console, RenderableType
from rich.table import Table

from mimzoo.blocks import Licence, Metric, Origin
from mimzoo.cards import Card, card_folders, find_card, store_folder
from mimzoo.errors import CardError, UnknownNameError
from mimzoo.hub import SCHEME, HubReference, cached, find_model, holds
from mimzoo.registry import Registry


@dataclass(frozen=True)
class ModelInfo:
    """What is to be known of a model: `data` it was made with and their licence, `bytes` of its weights and where.

    `weights` is "here", "on the Hub", "yet to be trained" or "missing".
    """

    name: str
    kind: str
    encoder: str
    data: str
    licence: Licence
    metrics: tuple[Metric, ...]
    weights: str
    bytes: int | None
    origin: Origin | None
    card: Card


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of all models that match a pattern such as "swin-*", sorted: of plugins and the local store."""
    return sorted(fnmatch.filter(card_folders(), pattern))


def info(reference: str | Path) -> ModelInfo:
    """Return what is to be known of a model by its bare name, folder, or `hf://org/name@revision`.

    Of a name or folder only the card is read, nothing is fetched. Raises the errors of `find_card` and `fetch`.
    """
    published = isinstance(reference, str) and reference.startswith(SCHEME)
    card = find_model(reference) if published else find_card(reference)
    block, recipe = card.block, card.block.finetuning or card.block.pretraining
    return ModelInfo(
        name=card.name,
        kind=card.kind,
        encoder=block.encoder.name,
        data=recipe.data if recipe else "",
        licence=block.licence,
        metrics=block.metrics,
        weights=weights_state(card),
        bytes=block.weights.bytes if block.weights else None,
        origin=block.origin,
        card=card,
    )


def weights_state(card: Card) -> str:
    """Return where the weights of a card are: "here", "on the Hub", "yet to be trained", or "missing"."""
    weights, named = card.block.weights, card.block.artefacts()
    if weights is None:
        return "yet to be trained"
    if card.file("model.safetensors") or holds(store_folder(card.name), named):
        return "here"
    if weights.repo is None or weights.tag is None:
        return "missing"
    return "here" if cached(HubReference(weights.repo, weights.tag), named) else "on the Hub"


def models_table(pattern: str = "*") -> Table:
    """Return a table of the named models that match: what they are, size, data, licence, metrics, where weights are.

    Raises UnknownNameError when no name matches.
    """
    columns = ("model", "kind", "encoder", "size", "data", "licence of data", "metrics", "weights")
    table = Table(*columns, box=None, pad_edge=False)
    names = list_models(pattern)
    if not names:
        near = get_close_matches(pattern.strip("*"), card_folders(), n=1)
        advice = f"did you mean {near[0]!r}?" if near else "see them all with: mimzoo list"
        raise UnknownNameError(f"no model's name matches {pattern!r}; {advice}")
    for name in names:
        table.add_row(name, *_row(name))
    return table


def _row(name: str) -> list[str]:
    try:
        found = info(name)
    except CardError as error:
        return ["[red]broken[/red]", "", "", str(error)]
    metrics = ", ".join(f"{metric.name} {metric.value:.3f}" for metric in found.metrics)
    return [found.kind, found.encoder, _size(found), found.data, found.licence.data, metrics, found.weights]


def _size(found: ModelInfo) -> str:
    return "" if found.bytes is None else f"{found.bytes / 1e6:.1f} MB"


def info_table(reference: str) -> Table:
    """Return a table of what is to be known of a model; raises errors as `info`."""
    found, table = info(reference), Table(box=None, show_header=False, pad_edge=False)
    input = found.card.block.input
    spacing = " x ".join(f"{n:g}" for n in input.spacing_mm)
    crop = " x ".join(map(str, input.crop))
    rows = {
        "model": f"{found.name}, {found.kind}, encoder {found.encoder}",
        "sees": f"{', '.join(input.channels)} at {spacing} mm, {input.intensity.mode}, crops of {crop} voxels",
        "answers": ", ".join(found.card.block.task.names) if found.kind != "encoder" else "",
        "data": found.data,
        "licence": f"code {found.licence.code}, data {found.licence.data}",
        "origin": _origin(found.origin) if found.origin else "",
        "made by": found.card.block.command or "",
        "weights": f"{found.weights}{', ' if found.bytes else ''}{_size(found)}",
        "card": str(found.card.folder),
    }
    for key, value in rows.items():
        if value:
            table.add_row(key, value)
    for metric in found.metrics:
        table.add_row("metric", f"{metric.name} {metric.value:.4f} on {metric.data} ({metric.protocol})")
    return table


def _origin(origin: Origin) -> str:
    passed = "" if origin.republish else ", not to be passed on"
    return f"{origin.file} ({origin.format}, sha256 {origin.sha256[:12]}...), licence {origin.licence}{passed}"


def plugins_table(found: Registry) -> Table:
    """Return a table of the plugins: their distribution and what each offers, kind by kind."""
    table = Table("plugin", "distribution", "kind", "offers", box=None, pad_edge=False)
    for plugin, distribution in sorted(found.plugins.items()):
        kinds: dict[str, list[str]] = {}
        for offer in found.offers:
            if offer.plugin == plugin:
                kinds.setdefault(offer.kind, []).append(offer.name)
        for kind, names in kinds.items():
            table.add_row(plugin, distribution, kind, ", ".join(sorted(names)))
        if not kinds:
            table.add_row(plugin, distribution, "", "nothing")
    for failure in found.failures:
        table.add_row(failure.plugin, failure.distribution, "[red]failed[/red]", failure.reason)
    return table


@contextmanager
def cases_progress(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function (done, total, case) that shows progress over cases."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, case: bar.update(task, completed=done, total=total, description=case)


def show(renderable: RenderableType) -> None:
    """Print a table as wide as the terminal, or as COLUMNS says (160 by default) where there is none."""
    Console(width=None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "160"))).print(renderable)
