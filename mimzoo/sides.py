"""Left and right: which labels are the two sides of one organ, and what a view mirrored along X tells. No torch."""

import re
from collections.abc import Mapping, Sequence

from mimzoo.recipes import Augmentation, SidedLabels
from mimzoo.tasks import Task

SIDES = {"right": "left", "r": "l", "rt": "lt", "rh": "lh"}
X = 0


def named_sides(labels: Mapping[int, str]) -> SidedLabels:
    """Return the pairs of label values, the right one first, whose names differ in nothing but the side.

    RightParotid and LeftParotid, kidney_r and kidney_l, ctx-rh-insula and ctx-lh-insula; letters in either case.
    """
    values = {_words(name): value for value, name in labels.items()}
    mirrored = {words: tuple(SIDES.get(word, word) for word in words) for words in values}
    return tuple((values[one], values[two]) for one, two in mirrored.items() if one != two and two in values)


def _words(name: str) -> tuple[str, ...]:
    apart = re.sub("(?i)(left|right)", r" \1 ", name)
    return tuple(word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", apart))


def mirrored_outputs(task: Task, pairs: SidedLabels) -> tuple[int, ...]:
    """Return for each output of a model the place of the one that tells of it in a view mirrored along X.

    Raises ValueError for pairs of labels that the task does not have, and for a region of which only one side is one.
    """
    unknown = [value for pair in pairs for value in pair if value not in task.labels]
    if unknown:
        raise ValueError(
            f"sided_labels names the label {unknown[0]}; there are {', '.join(map(str, task.labels)) or 'none'}"
        )
    other = {**dict(pairs), **{two: one for one, two in pairs}}
    if task.kind != "regions":
        return tuple(other.get(place, place) for place in range(len(task.outputs)))
    places = {frozenset(values): place for place, values in enumerate(task.regions.values())}
    images = {name: frozenset(other.get(value, value) for value in values) for name, values in task.regions.items()}
    lacking = [name for name, image in images.items() if image not in places]
    if lacking:
        raise ValueError(
            f"sided_labels mirrors the region {lacking[0]!r} to one that is none; add that, or leave it out"
        )
    return tuple(places[image] for image in images.values())


def check_sides(task: Task, changes: Augmentation) -> None:
    """Raise ValueError where a model would learn to take left for right, and as `mirrored_outputs` does."""
    mirrored_outputs(task, changes.sided_labels)
    refuse_unpaired(task, changes.flip_axes, changes.sided_labels)


def refuse_unpaired(task: Task, axes: Sequence[int], pairs: SidedLabels) -> None:
    """Raise ValueError where `axes` has X and two labels, or classes, are sides of one thing but no pair."""
    names = dict(enumerate(task.outputs)) if task.kind == "classes" else task.labels
    paired, sides = {frozenset(pair) for pair in pairs}, named_sides(names)
    unpaired = [pair for pair in sides if frozenset(pair) not in paired]
    if X in axes and unpaired:
        right, left = (names[value] for value in unpaired[0])
        pairing = f"name them in finetuning.augmentation.sided_labels ({list(map(list, sides))}), or "
        raise ValueError(f"mirrored along X, {right} would be {left}: {pairing if task.labels else ''}leave X out")
