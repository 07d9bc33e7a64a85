"""What frozen features tell: a linear classifier and nearest neighbours on them, `mimzoo probe NAME --data DIR`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from mimzoo.answers import softmax
from mimzoo.cards import Card, mimzoo_home
from mimzoo.data.cases import Case, Dataset
from mimzoo.data.datasets import read_dataset
from mimzoo.data.reading import read_case
from mimzoo.data.store import StoredCase, prepare_dataset
from mimzoo.data.tables import check_targets, target_of
from mimzoo.embed import scan_vector
from mimzoo.errors import DataError
from mimzoo.files import replacing
from mimzoo.hub import find_model
from mimzoo.metrics import Classification, score_classification
from mimzoo.models import load_card
from mimzoo.tokens import Encoder
from mimzoo.volume import pad_to

# Voxels of each class taken from a case where voxels are told apart, and not scans.
VOXELS = 50
NEIGHBOURS, TEMPERATURE = 20, 0.07
# Of the squared weights of the linear classifier, beside the mean cross-entropy.
PENALTY = 1e-3
BACKGROUND = "background"
PARTS = ("training", "validation")


@dataclass(frozen=True)
class Rows:
    """Features (n, D) of scans or voxels, and the number of the class of each."""

    features: NDArray[np.float32]
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class Probe:
    """How well the classes of validation `rows` are told from frozen features by two classifiers fitted to training."""

    model: str
    data: str
    rows: str
    names: tuple[str, ...]
    linear: Classification
    neighbours: Classification


def probe(
    reference: str | Path, data: Path, column: str | None = None, out: Path | None = None, progress: Any = None
) -> tuple[Probe, Path]:
    """Return what a model's frozen features tell of a data set, and the path of probe.json.

    With a `column` of its table, scans are told apart by their vectors (see `mimzoo.embed`); without, the voxels of
    its label maps, balanced by class, by all maps of the encoder interpolated at the voxel. A multinomial logistic
    regression and cosine nearest neighbours (k = 20, weights exp(similarity / 0.07), as Caron et al. 2021, arXiv
    2104.14294) are fitted to the training cases and measured on the validation cases; nothing is tuned on these.
    Raises DataError when the data set has no such targets or labels, or a part has one class only.
    """
    model = load_card(find_model(reference))
    encoder: Encoder = getattr(model, "encoder", model)
    dataset, card = read_dataset(data), model.card
    if column is None:
        names, rows = _voxel_rows(encoder, dataset, card, progress)
    else:
        names, rows = _scan_rows(encoder, dataset, card, column, progress)
    training, validation = (_standardised(part, rows[0]) for part in rows)
    what = "voxels, balanced by class" if column is None else "scans"
    found = Probe(
        model=card.name,
        data=dataset.name,
        rows=f"{len(training.classes)} training and {len(validation.classes)} validation {what}",
        names=names,
        linear=score_classification(fit_linear(training, len(names))(validation.features), validation.classes, names),
        neighbours=score_classification(vote(training, validation.features, len(names)), validation.classes, names),
    )
    path = (out or Path("runs") / card.name) / "probe.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(found), indent=1) + "\n")
    return found, path


def _scan_rows(
    encoder: Encoder, dataset: Dataset, card: Card, column: str, progress: Any
) -> tuple[tuple[str, ...], list[Rows]]:
    values = sorted({target_of(dataset, case, column) for part in PARTS for case in dataset.cases(part)})
    check_targets(dataset, column, values)
    total = sum(len(dataset.cases(part)) for part in PARTS)
    done = 0

    def vector(case: Case) -> NDArray[np.float32]:
        nonlocal done
        found = scan_vector(encoder, read_case(case, dataset, card.block.input), card.block.input)
        done += 1
        if progress is not None:
            progress(done, total, case.id)
        return found

    rows = []
    for part in PARTS:
        cases = dataset.cases(part)
        classes = np.array([values.index(target_of(dataset, case, column)) for case in cases])
        rows.append(Rows(np.stack([vector(case) for case in cases]), classes))
    return tuple(values), rows


def _voxel_rows(encoder: Encoder, dataset: Dataset, card: Card, progress: Any) -> tuple[tuple[str, ...], list[Rows]]:
    if not dataset.labels:
        raise DataError(f"{dataset.folder} names no labels; name the column of its table to be told with --column")
    store = prepare_dataset(dataset, card.block.input, dataset.labels, mimzoo_home() / "prepared", progress, PARTS)
    values = [0, *sorted(dataset.labels)]
    rows = []
    for part in PARTS:
        dataset.cases(part)
        found = [_case_rows(encoder, case, card.block.input.crop, values) for case in store.cases(part)]
        rows.append(Rows(np.concatenate([r.features for r in found]), np.concatenate([r.classes for r in found])))
    return (BACKGROUND, *(dataset.labels[value] for value in values[1:])), rows


def _case_rows(encoder: Encoder, case: StoredCase, crop: Sequence[int], values: Sequence[int]) -> Rows:
    """Return rows of up to VOXELS voxels of each class of a case, always the same ones."""
    voxels, labels = case.read()
    assert labels is not None  # prepared with labels
    rng = np.random.default_rng(0)
    places, classes = [], []
    for number, value in enumerate(values):
        found = np.argwhere(labels == value)
        chosen = found[rng.choice(len(found), min(VOXELS, len(found)), replace=False)] if len(found) else found
        places.append(chosen)
        classes += [number] * len(chosen)
    return Rows(voxel_features(encoder, voxels, np.concatenate(places), crop, case.minimum), np.array(classes))


@torch.inference_mode()
def voxel_features(
    encoder: Encoder,
    voxels: NDArray[np.float32],
    places: NDArray[np.int64],
    crop: Sequence[int],
    minimum: Sequence[float],
) -> NDArray[np.float32]:
    """Return features (n, D) at n voxels of a volume (C, X, Y, Z): all maps of their crop, interpolated there.

    The volume is divided into crops side by side, the last one ending with it.
    """
    padded, inside = pad_to(voxels, crop, minimum)
    moved = places + np.array([part.start or 0 for part in inside[1:]])
    last = np.array(padded.shape[1:]) - np.array(crop)
    starts = np.minimum(moved // np.array(crop) * np.array(crop), last)
    out: NDArray[np.float32] | None = None
    for start in np.unique(starts, axis=0):
        chosen = (starts == start).all(axis=1)
        window = padded[(slice(None), *(slice(a, a + n) for a, n in zip(start, crop, strict=True)))]
        maps = encoder(torch.from_numpy(np.ascontiguousarray(window))[None])
        found = _sampled(maps, torch.from_numpy(moved[chosen] - start), crop)
        if out is None:
            out = np.empty((len(places), found.shape[1]), np.float32)
        out[chosen] = found.numpy()
    return out if out is not None else np.empty((0, sum(encoder.channels)), np.float32)


def _sampled(maps: Sequence[Tensor], places: Tensor, crop: Sequence[int]) -> Tensor:
    """Return all maps (1, D, GX, GY, GZ) interpolated at voxels (n, 3) of their crop, side by side: (n, sum of D)."""
    # torch counts positions from -1 to 1, last axis first
    position = (2 * places.float() + 1) / torch.tensor(list(crop)) - 1
    # (n, 3) -> (1, n, 1, 1, 3)
    grid = position.flip(1)[None, :, None, None]
    sampled = [functional.grid_sample(found, grid, "bilinear", "border", align_corners=False) for found in maps]
    # (1, D, n, 1, 1) -> (n, D)
    return torch.cat([values[0, :, :, 0, 0].T for values in sampled], 1)


def _standardised(rows: Rows, training: Rows) -> Rows:
    """Return rows with the mean and deviation of the training features taken out."""
    mean, deviation = training.features.mean(axis=0), training.features.std(axis=0)
    return Rows((rows.features - mean) / np.maximum(deviation, 1e-6), rows.classes)


def fit_linear(rows: Rows, classes: int) -> "Linear":
    """Return a multinomial logistic regression fitted to rows, by L-BFGS from zero."""
    features, truth = torch.from_numpy(rows.features), torch.from_numpy(rows.classes)
    weight = torch.zeros(features.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = functional.cross_entropy(features @ weight + bias, truth) + PENALTY * weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return Linear(weight.detach().numpy(), bias.detach().numpy())


@dataclass(frozen=True)
class Linear:
    """A linear classifier of features."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __call__(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities (n, K) of features (n, D)."""
        return softmax(features @ self.weight + self.bias)


def vote(training: Rows, features: NDArray[np.float32], classes: int) -> NDArray[np.float32]:
    """Return probabilities (n, K): the weighted votes of each row's nearest training rows."""
    unit = [
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (training.features, features)
    ]
    similarity = unit[1] @ unit[0].T
    count = min(NEIGHBOURS, len(training.classes))
    nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
    weights = np.exp((np.take_along_axis(similarity, nearest, 1) - 1) / TEMPERATURE)
    # (n, k) of classes -> (n, k, K) -> (n, K)
    votes = (weights[..., None] * np.eye(classes)[training.classes[nearest]]).sum(axis=1)
    shares: NDArray[np.float32] = (votes / votes.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def probe_table(found: Probe) -> Table:
    """Return a table of the two classifiers; intervals are left out, for voxels of one scan are not independent."""
    table = Table(
        "classifier", "balanced accuracy", "accuracy", "AUC", title=f"{found.model} on {found.data}: {found.rows}"
    )
    for name, result in (("linear", found.linear), ("nearest neighbours", found.neighbours)):
        values = (result.balanced_accuracy.value, result.accuracy.value, result.auc.value)
        table.add_row(name, *("-" if value is None else f"{value:.3f}" for value in values))
    return table
