"""The grids of docs/study: which trainings they ask for, and by what key each is known.

A grid is a TOML file: `rows` times `columns` times `seeds`, each a change of one fine-tuning recipe; what a row begins
`from` is scratch, a model of the zoo, or a pretraining of the grid, which has a recipe of its own.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from mimzoo.cards import Card, explain, override
from mimzoo.errors import CardError, DataError, suggest
from mimzoo.hub import find_model
from mimzoo.options import finetuning_assignments, start_assignment
from mimzoo.recipes import Block, Positive

FOLDER = Path(__file__).parents[1] / "docs" / "study"
SCRATCH = "scratch"
RECIPE = {"encoder", "input", "labels", "regions", "target"}


class Recipe(Block):
    """A card and the assignments that change it."""

    card: str
    set: tuple[str, ...] = ()


class Pretrain(Recipe):
    """A pretraining, and whose weights it goes on from."""

    start: str = Field(SCRATCH, alias="from")


class Change(Block):
    """What a row or a column changes of every training in it; `labelled` 0 takes all training cases."""

    name: str
    start: str | None = Field(None, alias="from")
    labelled: Annotated[int, Field(ge=0)] | None = None
    set: tuple[str, ...] = ()
    pretrain_set: tuple[str, ...] = ()


class Row(Change):
    """A line of a table, held `against` another one."""

    against: str | None = None


class Grid(Block):
    """A question: what is trained, on which data, and how many training cases are set apart to select weights on."""

    title: str
    text: str = ""
    data: str
    selection: Positive
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    finetune: Recipe
    pretrain: dict[str, Pretrain] = Field({})
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    columns: Annotated[tuple[Change, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_are_known(self) -> "Grid":
        for what in (self.rows, self.columns):
            names = [each.name for each in what]
            doubled = [name for place, name in enumerate(names) if name in names[:place]]
            if doubled:
                raise ValueError(f"the name {doubled[0]!r} is there twice")
        for row in self.rows:
            names = [other.name for other in self.rows if other is not row]
            if row.against is not None and row.against not in names:
                raise ValueError(f"row {row.name!r} is held against {row.against!r}; {suggest(row.against, names)}")
        return self


@dataclass(frozen=True)
class Training:
    """One call of `mimzoo pretrain` or `mimzoo finetune`; `start` is a training, the name of a model, or None."""

    verb: Literal["pretrain", "finetune"]
    card: str
    assignments: tuple[str, ...]
    start: "Training | str | None"
    data: str
    selection: int
    seed: int | None = None
    labelled: int | None = None

    @property
    def name(self) -> str:
        """Return what the run's folder and its record are called: other recipes have other names."""
        return f"{self.verb}-{self.key()[:12]}"

    @property
    def folder(self) -> str:
        """Return where the data set of a training lies below the folder that the study works in."""
        return f"data/{self.data}-{self.selection}"

    def key(self) -> str:
        """Return the hash of all that decides the result: recipe, start, data.

        What a recipe leaves at its default is not part of it, so that a new key of recipes changes no name.
        """
        told = json.dumps([self.verb, self.recipe(), self._begun(), self.data, self.selection], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def _begun(self) -> str | None:
        if isinstance(self.start, Training):
            return self.start.key()
        if self.start is None:
            return None
        weights = find_model(self.start).block.weights
        if weights is None:
            raise CardError(f"{self.start} has no weights to begin from; name a pretraining of the grid, or {SCRATCH}")
        return weights.sha256

    def recipe(self) -> dict[str, Any]:
        """Return what is trained and how, as the card says it once it is changed, without the start."""
        key = {"pretrain": "pretraining", "finetune": "finetuning"}[self.verb]
        block = self.changed_card().block.model_dump(mode="json", include={*RECIPE, key}, exclude_defaults=True)
        block[key].pop("start", None)
        return block

    def changed_card(self) -> Card:
        """Return the card with the assignments of this training."""
        if self.verb == "pretrain":
            return override(find_model(self.card), [*self.assignments, start_assignment("pretraining", SCRATCH)])
        few = None if self.labelled is None else str(self.labelled)
        options = finetuning_assignments(SCRATCH, few, None, None, self.seed)
        return override(find_model(self.card), [*self.assignments, *options])

    def command(self) -> list[str]:
        """Return the command line; paths are below the folder that the study works in."""
        start = f"./runs/{self.start.name}" if isinstance(self.start, Training) else self.start or SCRATCH
        words = ["mimzoo", self.verb, self.card, "--data", f"./{self.folder}"]
        words += ["-o", f"runs/{self.name}", "--from", start]
        words += [] if self.labelled is None else ["--labelled", str(self.labelled)]
        words += [] if self.seed is None else ["--seed", str(self.seed)]
        return [*words, "--tracker", "none", *(word for text in self.assignments for word in ("--set", text))]


@dataclass(frozen=True)
class Cell:
    """A fine-tuning with its place in the tables of a grid."""

    row: str
    column: str
    seed: int
    training: Training


def read_grid(path: Path) -> Grid:
    """Return the grid in a file; DataError with the key path for one that is not as it must be."""
    try:
        return Grid.model_validate_json(json.dumps(tomllib.loads(path.read_text(encoding="utf-8"))), strict=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path}: is no valid TOML ({error})") from None
    except ValidationError as error:
        raise DataError(f"{path}: {explain(error, Grid)}") from None


def cells(grid: Grid) -> Iterator[Cell]:
    """Yield the fine-tunings of a grid, all seeds of a place one after another."""
    for row in grid.rows:
        for column in grid.columns:
            for seed in grid.seeds:
                yield Cell(row.name, column.name, seed, finetuning_of(grid, row, column, seed))


def finetuning_of(grid: Grid, row: Row, column: Change, seed: int) -> Training:
    """Return the fine-tuning of a row and a column; what the row says goes before what the column says."""
    labelled = next((each.labelled for each in (row, column) if each.labelled is not None), 0)
    return Training(
        "finetune",
        grid.finetune.card,
        (*grid.finetune.set, *column.set, *row.set),
        start_of(grid, row.start or column.start or SCRATCH, (*column.pretrain_set, *row.pretrain_set)),
        grid.data,
        grid.selection,
        seed,
        labelled or None,
    )


def start_of(grid: Grid, name: str, changes: tuple[str, ...]) -> Training | str | None:
    """Return what a name after `from` stands for: None for scratch, a pretraining of the grid, or a model's name."""
    if name == SCRATCH:
        return None
    if name not in grid.pretrain:
        return name
    chosen = grid.pretrain[name]
    begun = start_of(grid, chosen.start, changes)
    return Training("pretrain", chosen.card, (*chosen.set, *changes), begun, grid.data, grid.selection)


def trainings(grid: Grid) -> list[Training]:
    """Return all trainings of a grid, each once and after the one that it begins from, the first seed's first."""
    found: dict[str, Training] = {}

    def add(training: Training) -> None:
        if isinstance(training.start, Training):
            add(training.start)
        found.setdefault(training.key(), training)

    for cell in sorted(cells(grid), key=lambda cell: grid.seeds.index(cell.seed)):
        add(cell.training)
    return list(found.values())
