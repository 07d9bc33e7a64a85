"""Options of the command line that become assignments to a card."""

import json
from pathlib import Path
from typing import Any

import yaml

from mimzoo.errors import DataError


def start_assignment(recipe: str, start: str) -> str:
    """Return the assignment of the card that a recipe ("pretraining", "finetuning") begins from, or of "scratch"."""
    return f"{recipe}.start={'null' if start == 'scratch' else start}"


def finetuning_assignments(
    start: str | None, labelled: str | None, fold: str | None, split: Path | None, seed: int | None
) -> list[str]:
    """Return the assignments for the options of `mimzoo finetune` that are given; `start` may be "scratch".

    Raises DataError as `fold_assignment` and `split_assignment` do.
    """
    found = []
    if start is not None:
        found.append(start_assignment("finetuning", start))
    if labelled is not None:
        found.append(f"finetuning.labelled={labelled}")
    if fold is not None:
        found.append(fold_assignment(fold))
    if split is not None:
        found.append(split_assignment(split))
    if seed is not None:
        found.append(f"finetuning.seed={seed}")
    return found


def importer_options(texts: list[str]) -> dict[str, Any]:
    """Return an importer's options of texts such as "crop=[96,96,96]"; values are read as YAML.

    Raises DataError for a text that gives no value to a name.
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise DataError(f"--option {text!r} gives no value; write name=value, such as merge=legacy")
        try:
            found[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise DataError(
                f"--option {text!r} has no value that YAML reads ({' '.join(str(error).split())})"
            ) from None
    return found


def fold_assignment(text: str) -> str:
    """Return the assignment for a fold such as "0/5"; DataError for any other text."""
    fold, slash, folds = text.partition("/")
    if not (slash and fold.isdecimal() and folds.isdecimal()):
        raise DataError(f"--fold {text!r} is no fold; write its number and how many there are, from 0/5 to 4/5")
    return f"finetuning.fold={{folds: {int(folds)}, fold: {int(fold)}}}"


def split_assignment(path: Path) -> str:
    """Return the assignment for the split in a JSON file, such as a run's own; DataError for a file of another kind."""
    try:
        split = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: is not valid JSON ({error})") from None
    if not isinstance(split, dict) or set(split) - {"data"} != {"training", "validation"}:
        raise DataError(f'{path}: must be {{"training": [case ids], "validation": [case ids]}}')
    return f"finetuning.split={json.dumps({part: split[part] for part in ('training', 'validation')})}"
