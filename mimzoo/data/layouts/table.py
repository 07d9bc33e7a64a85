"""What an adapter finds in a download, and the dataset.json that it becomes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONVERTER = "mimzoo data convert"


@dataclass(frozen=True)
class Benchmark:
    """What the organisers of a benchmark say of it.

    `modality` names the channels in the order of a case's files; `labels` names the label values 1, 2, ...; `values`
    maps what label files hold to label values where the two differ, and then lists every stored value but 0.
    """

    name: str
    modality: tuple[str, ...]
    licence: str
    reference: str
    labels: tuple[str, ...] = ()
    values: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A case with its files, relative to the folder; without a label and without targets it is unlabelled."""

    id: str
    subject: str
    images: tuple[Path, ...]
    label: Path | None = None
    targets: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A converted download: its cases, the ids that validate by custom (none: the reader splits), what to tell."""

    benchmark: Benchmark
    entries: tuple[Entry, ...]
    validation: frozenset[str] = frozenset()
    remarks: tuple[str, ...] = ()


def read_content(path: Path) -> dict[str, Any]:
    """Return what a dataset.json holds; nothing when it is not there or is no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def is_foreign(path: Path) -> bool:
    """Return whether a dataset.json is there that no conversion wrote."""
    return path.exists() and not str(read_content(path).get("converted_by", "")).startswith(CONVERTER)


def manifest(table: Table, layout: str) -> dict[str, Any]:
    """Return the content of dataset.json: the Decathlon format with `values`, `subject`, `targets`, `converted_by`."""
    benchmark = table.benchmark
    labels = dict(enumerate(("background", *benchmark.labels))) if benchmark.labels else {}
    optional = {
        "labels": {str(value): name for value, name in labels.items()},
        "values": {str(stored): value for stored, value in benchmark.values.items()},
        "remarks": list(table.remarks),
    }
    return {
        "name": benchmark.name,
        "reference": benchmark.reference,
        "licence": benchmark.licence,
        "converted_by": f"{CONVERTER} {layout}",
        "modality": {str(number): name for number, name in enumerate(benchmark.modality)},
        **{key: content for key, content in optional.items() if content},
        **_splits(table),
    }


def _splits(table: Table) -> dict[str, list[dict[str, Any]]]:
    """Return the cases by split; without validation cases that key is left out, so that the reader splits."""
    splits: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "unlabelled": []}
    for entry in table.entries:
        told = entry.label is not None or bool(entry.targets)
        split = ("validation" if entry.id in table.validation else "training") if told else "unlabelled"
        splits[split].append(_listed(entry))
    return {split: cases for split, cases in splits.items() if cases or split == "training"}


def _listed(entry: Entry) -> dict[str, Any]:
    images = [path.as_posix() for path in entry.images]
    listed: dict[str, Any] = {"id": entry.id, "subject": entry.subject}
    listed["image"] = images[0] if len(images) == 1 else images
    if entry.label is not None:
        listed["label"] = entry.label.as_posix()
    if entry.targets:
        listed["targets"] = dict(entry.targets)
    return listed
