"""Which cases are trained on: few labels, folds, fixed lists. No split parts the scans of a subject.

Every choice follows salted hashes of subjects and case ids, so that it depends on neither the order of the files nor
the machine.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mimzoo.data.cases import Case, Dataset, nearest
from mimzoo.data.tables import target_of
from mimzoo.errors import DataError

VALIDATION_SHARE = 0.2


def few_labels(dataset: Dataset, count: int, seed: int = 0) -> Dataset:
    """Return the data set with `count` of its training cases; under one seed smaller choices lie inside larger ones.

    Whole subjects are taken one after another. Of the last one only as many scans are taken as are still wanted, and
    its others are left out altogether.
    Raises DataError when there are not that many cases.
    """
    if not 1 <= count <= len(dataset.training):
        raise DataError(
            f"{dataset.folder}: cannot take {count} labelled training cases; give 1 to {len(dataset.training)}"
        )
    salt = f"few {seed}"
    order = sorted(dataset.training, key=lambda case: (_hash(salt, case.subject), _hash(salt, case.id)))
    return replace(dataset, training=tuple(order[:count]))


def label_fraction(dataset: Dataset, fraction: float, seed: int = 0) -> Dataset:
    """Return the data set with round(fraction * n) of its n training cases, at least one, chosen as by `few_labels`.

    Raises DataError for a fraction that is not above 0 and at most 1, or when there are no training cases.
    """
    if not 0 < fraction <= 1:
        raise DataError(
            f"{dataset.folder}: cannot take a fraction of {fraction:g} of the cases; give one above 0, to 1"
        )
    return few_labels(dataset, max(1, round(fraction * len(dataset.training))), seed)


def take_fold(dataset: Dataset, folds: int, fold: int, seed: int = 0, column: str | None = None) -> Dataset:
    """Return the data set with fold `fold` of `folds` for validation, and the others for training, by case id.

    Training and validation cases are pooled and their subjects dealt out in turn, so that folds differ by at most one
    subject; with a `column`, by at most one subject of each of its values too. A subject counts under the value of
    its first case by id.
    Raises DataError for fewer than two folds, for no such fold, for fewer subjects than folds, and for a case
    without the column.
    """
    if folds < 2:
        raise DataError(f"{dataset.folder}: cannot deal cases into {folds} fold(s); give at least 2")
    if not 0 <= fold < folds:
        raise DataError(f"{dataset.folder}: there is no fold {fold} among {folds}; folds are numbered 0 to {folds - 1}")
    cases = sorted(dataset.training + dataset.validation, key=lambda case: case.id)
    values = {case.subject: target_of(dataset, case, column) if column else "" for case in reversed(cases)}
    if len(values) < folds:
        raise DataError(
            f"{dataset.folder}: {len(values)} labelled subject(s) cannot fill {folds} folds; give fewer folds"
        )
    chosen = set(_dealt(values, f"fold {seed}")[fold::folds])
    return replace(dataset, training=_without(chosen, cases), validation=_within(chosen, cases))


def _dealt(values: Mapping[str, str], salt: str) -> list[str]:
    """Return the subjects in the order they are dealt: value after value, shuffled within each."""
    return sorted(values, key=lambda subject: (_hash(salt, values[subject]), _hash(salt, subject)))


def fixed_split(dataset: Dataset, training_ids: Iterable[str], validation_ids: Iterable[str]) -> Dataset:
    """Return the data set with these labelled cases for training and validation, in this order, and no others.

    Raises DataError for an id that no training or validation case has, for one listed twice, and for a subject in
    both parts.
    """
    known = {case.id: case for case in dataset.training + dataset.validation}
    training, validation = (
        [_known(dataset, known, name) for name in names] for names in (training_ids, validation_ids)
    )
    seen: set[str] = set()
    for case in [*training, *validation]:
        if case.id in seen:
            raise DataError(f"{dataset.folder}: case {case.id!r} is listed twice in the split; list each case once")
        seen.add(case.id)
    for problem in parted(training, validation):
        raise DataError(f"{dataset.folder}: {problem}")
    return replace(dataset, training=tuple(training), validation=tuple(validation))


def _known(dataset: Dataset, known: Mapping[str, Case], name: str) -> Case:
    if name not in known:
        unlabelled = any(case.id == name for case in dataset.unlabelled)
        why = "is unlabelled and cannot be in a split" if unlabelled else "is not in the data set"
        raise DataError(f"{dataset.folder}: the case {name!r} {why}; {nearest(name, known)}")
    return known[name]


def split_off(cases: Sequence[Case], seed: int) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Return (training, validation), both in the order given: one subject in five is for validation.

    Of two or more subjects at least one is for validation; one alone is for training.
    """
    subjects = sorted({case.subject for case in cases}, key=lambda subject: _hash(f"split {seed}", subject))
    count = max(1, round(VALIDATION_SHARE * len(subjects))) if len(subjects) > 1 else 0
    chosen = set(subjects[:count])
    return _without(chosen, cases), _within(chosen, cases)


def parted(training: Iterable[Case], validation: Iterable[Case]) -> Iterable[str]:
    """Yield a sentence for each subject that is in both parts, with a case of each."""
    first: dict[str, Case] = {}
    for case in training:
        first.setdefault(case.subject, case)
    told: set[str] = set()
    for case in validation:
        if case.subject in first and case.subject not in told:
            told.add(case.subject)
            yield (
                f"subject {case.subject!r} is in both training (case {first[case.subject].id!r}) and validation (case "
                f"{case.id!r}); put all scans of a subject in one part"
            )


def _within(subjects: set[str], cases: Iterable[Case]) -> tuple[Case, ...]:
    return tuple(case for case in cases if case.subject in subjects)


def _without(subjects: set[str], cases: Iterable[Case]) -> tuple[Case, ...]:
    return tuple(case for case in cases if case.subject not in subjects)


def _hash(salt: str, text: str) -> str:
    return hashlib.sha256(f"{salt} {text}".encode()).hexdigest()
