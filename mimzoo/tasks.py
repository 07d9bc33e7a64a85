"""What a model answers: one label per voxel, overlapping regions, the class of a scan, or a number. No torch."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mimzoo.errors import suggest
from mimzoo.recipes import Block, Labels

Kind = Literal["labels", "regions", "classes", "value"]
Regions = dict[str, Annotated[tuple[str, ...], Field(min_length=1)]]
BACKGROUND = "background"


class Target(Block):
    """What is told of a whole scan: a column of the data set's table, with its classes in order, or as a number.

    `unit` names what the number counts, such as years. Cases with a value of `leave_out` are left out: those between
    the classes, say.
    """

    column: str
    classes: tuple[str, ...] | None = None
    unit: str | None = None
    leave_out: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _classes_or_number(self) -> "Target":
        if self.classes is not None and (len(set(self.classes)) < max(2, len(self.classes)) or self.unit):
            raise ValueError("target.classes needs at least two different names, and a class has no unit")
        both = sorted({*(self.classes or ())} & {*self.leave_out})
        if both:
            raise ValueError(f"target.leave_out names {both[0]!r}, which is one of the classes; leave it out of one")
        return self


@dataclass(frozen=True)
class Task:
    """A kind of answer: `outputs` names each logit of the model, `regions` holds the label values of each region.

    Regions stand in the order of their number of labels, the largest first, then of their names.
    """

    kind: Kind
    outputs: tuple[str, ...]
    labels: Mapping[int, str] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    target: Target | None = None

    @property
    def of_scan(self) -> bool:
        """Return whether there is one answer for a scan, and not one for each voxel."""
        return self.kind in ("classes", "value")

    @property
    def names(self) -> tuple[str, ...]:
        """Return what is scored: the outputs without the background."""
        return self.outputs[1:] if self.kind == "labels" else self.outputs


def make_task(labels: Labels | None, regions: Regions | None, target: Target | None) -> Task:
    """Return the task that a card or an exported file describes.

    Outputs follow label values, classes as listed, and regions from the one of most labels to that of fewest, by name
    where these are equal.
    Raises ValueError with one sentence for labels that do not count up from 1, names given twice, a region of unknown
    labels, regions whose masks would share a file, or a description of no task or of two.
    """
    if target is not None:
        if labels or regions:
            raise ValueError("a target is told of a whole scan, so there are no `labels` and no `regions` beside it")
        return _scan_task(target)
    if not labels:
        raise ValueError("a task needs `labels`, or a `target` that is told of a whole scan")
    _check_labels(labels)
    if regions is None:
        return Task("labels", (BACKGROUND, *(labels[value] for value in sorted(labels))), labels)
    values = {name: _values(name, parts, labels) for name, parts in regions.items()}
    if not values:
        raise ValueError("regions is empty; leave it out, or name the labels of each region")
    _check_files(values)
    # Mappings may be sorted by whoever writes them, and outputs would change their names if that order counted.
    order = sorted(values, key=lambda name: (-len(values[name]), name))
    return Task("regions", tuple(order), labels, {name: values[name] for name in order})


def _scan_task(target: Target) -> Task:
    if target.classes is None:
        return Task("value", (target.column,), target=target)
    return Task("classes", target.classes, target=target)


def _check_labels(labels: Labels) -> None:
    if sorted(labels) != list(range(1, 1 + len(labels))):
        raise ValueError(f"labels must count up from 1, got the values {sorted(labels)}")
    if len({BACKGROUND, *labels.values()}) <= len(labels):
        raise ValueError(f"labels must have different names, none of them {BACKGROUND!r}, got {list(labels.values())}")


def _check_files(regions: Iterable[str]) -> None:
    """Refuse regions whose files a disk could not tell apart, some of which take upper and lower case as one."""
    files = [slug(region).casefold() for region in regions]
    if "" in files or len(set(files)) < len(files):
        raise ValueError(f"regions must differ in letters or digits, which name their files, got {list(regions)}")


def slug(name: str) -> str:
    """Return a name as part of a file name: letters and digits, with hyphens for what stands between."""
    return re.sub(r"[\W_]+", "-", name).strip("-")


def _values(region: str, parts: tuple[str, ...], labels: Labels) -> tuple[int, ...]:
    known = {name: value for value, name in labels.items()}
    for part in parts:
        if part not in known:
            raise ValueError(f"region {region!r} names the unknown label {part!r}; {suggest(part, known)}")
    return tuple(sorted({known[part] for part in parts}))
