"""Tables for the eye: the models that have a name, the plugins and what they offer. No torch."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, RenderableType
from rich.table import Table

from mimzoo.cards import Card, card_folders, read_card
from mimzoo.errors import CardError
from mimzoo.registry import Registry


def models_table() -> Table:
    """Return a table of all named models: what they are, their data, licence, metrics and where the weights are."""
    table = Table("model", "kind", "encoder", "data", "licence of data", "metrics", "weights", box=None, pad_edge=False)
    for name, folder in sorted(card_folders().items()):
        table.add_row(name, *_row(folder))
    return table


def _row(folder: Path) -> list[str]:
    try:
        card = read_card(folder)
    except CardError as error:
        return ["[red]broken[/red]", str(error)]
    recipe = card.block.finetuning or card.block.pretraining
    data = recipe.data if recipe else ""
    return [card.kind, card.block.encoder.name, data, card.block.licence.data, _metrics(card), weights_state(card)]


def _metrics(card: Card) -> str:
    return ", ".join(f"{metric.name} {metric.value:.3f}" for metric in card.block.metrics)


def weights_state(card: Card) -> str:
    """Return where the weights of a card are: here with their size, on the Hub, or yet to be trained."""
    weights = card.block.weights
    if weights is None:
        return "yet to be trained"
    if card.file("model.safetensors"):
        return f"here, {weights.bytes / 1e6:.1f} MB"
    return f"on the Hub, {weights.bytes / 1e6:.1f} MB" if weights.repo else "missing"


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
