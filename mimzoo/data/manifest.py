"""A Decathlon `dataset.json`, with channels, subjects, targets and other label values where it states them."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mimzoo.data.cases import LABELLED, SPLITS, Case, Dataset, case_id
from mimzoo.data.splits import split_off
from mimzoo.data.tables import fill, mismatches, read_table
from mimzoo.errors import DataError


def read_manifest(path: Path, seed: int) -> tuple[Dataset, list[str]]:
    """Return the data set that a dataset.json lists, no file of it looked at, and where its table does not fit it.

    Raises DataError for a file or a table that cannot be read, and for entries that are not as they must be.
    """
    content = _read_json(path)
    channels, labels = _channels(path, content), _labels(path, content.get("labels") or {})
    tabled = content.get("table") is not None
    found = {split: tuple(_entries(path, content, split, len(channels), tabled)) for split in SPLITS}
    problems: list[str] = []
    if tabled:
        table = read_table(_inside(path, "table", content["table"]))
        problems += mismatches(table, [case for split in LABELLED for case in found[split]], found["unlabelled"])
        found = {split: fill(table, cases) for split, cases in found.items()}
    if "validation" not in content:
        found["training"], found["validation"] = split_off(found["training"], seed)
    name = str(content.get("name") or path.parent.resolve().name)
    values = _values(path, content.get("values") or {}, labels)
    return Dataset(name, path.parent, **found, labels=labels, channels=channels, values=values), problems


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not valid JSON ({error}); mend or download it again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be a JSON object with training, validation or unlabelled, got {_kind(content)}")
    return content


def _kind(value: object) -> str:
    return {list: "a list", dict: "an object", str: "a string", bool: "a boolean"}.get(type(value), "a number or null")


def _inside(path: Path, place: str, text: object) -> Path:
    """Return the path beside the JSON file; one that leaves the folder is refused, for JSON files are shared."""
    if not isinstance(text, str):
        raise DataError(f"{path}: {place} must be a path, got {_kind(text)}")
    relative = Path(text)
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{path}: {place} names {text!r}, which leaves the folder; use a path below {path.parent}")
    return path.parent / relative


# --- entries ----------------------------------------------------------------------------------------------------------


def _entries(path: Path, content: dict[str, Any], split: str, channels: int, tabled: bool) -> Iterator[Case]:
    entries = content.get(split, [])
    if not isinstance(entries, list):
        raise DataError(f"{path}: {split} must be a list of cases, got {_kind(entries)}")
    for number, entry in enumerate(entries):
        place = f"{split}[{number}]"
        case = _entry(
            path, place, {"image": entry} if isinstance(entry, str) else entry, channels, split != "unlabelled"
        )
        if split != "unlabelled" and case.label is None and not case.targets and not tabled:
            raise DataError(
                f"{path}: {split} case {case.id!r} has no label; give one, or targets, or list it under unlabelled"
            )
        yield case


def _entry(path: Path, place: str, entry: Any, channels: int, labelled: bool) -> Case:
    if not isinstance(entry, dict) or not isinstance(entry.get("image"), str | list) or not entry["image"]:
        raise DataError(f"{path}: {place} must be a path, or an object with image and label as paths")
    images = _images(path, place, entry["image"], channels)
    name, subject = (_text(path, place, entry, key) for key in ("id", "subject"))
    label = _inside(path, place, entry["label"]) if labelled and entry.get("label") is not None else None
    return Case(name or case_id(images[0].name), images, label, subject, _targets(path, place, entry.get("targets")))


def _images(path: Path, place: str, stated: str | list[Any], channels: int) -> tuple[Path, ...]:
    if isinstance(stated, str):
        return (_inside(path, place, stated),)
    if channels and len(stated) != channels:
        raise DataError(
            f"{path}: {place} lists {len(stated)} image(s) for {channels} channel(s); list one for each channel, or "
            f"name a single 4D file by its path alone"
        )
    return tuple(_inside(path, place, text) for text in stated)


def _text(path: Path, place: str, entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key) or ""
    if not isinstance(value, str):
        article = "an" if key == "id" else "a"
        raise DataError(f"{path}: {place} has the {key} {value!r}; {article} {key} is a string")
    return value


def _targets(path: Path, place: str, stated: Any) -> dict[str, str]:
    """Return column -> text; a number is taken as its text."""
    if stated is None:
        return {}
    if not isinstance(stated, dict) or not all(type(value) in (str, int, float) for value in stated.values()):
        raise DataError(
            f'{path}: targets of {place} must map columns to text or numbers, as in {{"diagnosis": "AD", "age": 71}}'
        )
    return {column: str(value).strip() for column, value in stated.items()}


# --- channels, labels and values --------------------------------------------------------------------------------------


def _channels(path: Path, content: dict[str, Any]) -> tuple[str, ...]:
    key = "channel_names" if content.get("channel_names") else "modality"
    stated = content.get(key) or {}
    if not isinstance(stated, dict) or not all(isinstance(name, str) and name for name in stated.values()):
        raise DataError(f'{path}: {key} must map numbers to names, as in {{"0": "FLAIR", "1": "T1w"}}')
    if sorted(stated) != sorted(map(str, range(len(stated)))):
        raise DataError(f"{path}: {key} has the keys {', '.join(map(repr, stated))}; they must count from 0")
    channels = tuple(stated[str(number)] for number in range(len(stated)))
    doubled = [name for number, name in enumerate(channels) if name in channels[:number]]
    if doubled:
        raise DataError(f"{path}: {key} names two channels {doubled[0]!r}; give each a name of its own")
    return channels


def _labels(path: Path, stated: Any) -> dict[int, str]:
    """Return value -> name without the background."""
    if not isinstance(stated, dict) or not all(isinstance(name, str) for name in stated.values()):
        raise DataError(f'{path}: labels must map values to names, as in {{"0": "background", "1": "Liver"}}')
    unfit = [key for key in stated if not (re.fullmatch("[0-9]{1,3}", key) and int(key) <= 254)]
    if unfit:
        raise DataError(f"{path}: labels has the key {unfit[0]!r}; keys are label values from 0 to 254")
    names = _by_number(path, "labels", stated)
    return {value: str(names[value]) for value in names}


def _values(path: Path, stated: Any, labels: Mapping[int, str]) -> dict[int, int]:
    """Return stored value -> label value without 0, which is always background."""
    if not isinstance(stated, dict) or not all(re.fullmatch("-?[0-9]{1,9}", key) for key in stated):
        raise DataError(f'{path}: values must map stored values to label values, as in {{"205": 1, "420": 2}}')
    unfit = [v for v in stated.values() if type(v) is not int or v not in {0, *labels}]
    if unfit:
        raise DataError(f"{path}: values leads to {unfit[0]!r}; allowed are the label values {[0, *labels]}")
    if stated.get("0", 0) != 0:
        raise DataError(f"{path}: values leads from 0 to {stated['0']}; 0 is always background, leave it out")
    return _by_number(path, "values", stated)


def _by_number(path: Path, what: str, stated: Mapping[str, Any]) -> dict[int, Any]:
    """Return the mapping by rising number, without 0."""
    found = {int(key): content for key, content in stated.items()}
    if len(found) < len(stated):
        raise DataError(f"{path}: {what} names a value twice; write each value once, without leading zeros")
    return {number: found[number] for number in sorted(found) if number}
