"""The whole road of two tasks on generated data: raw download, training, evaluation, ONNX, and back to the scan."""

import csv
import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from generated import SEQUENCES, write_tumours, write_ventricles

from mimzoo.cards import find_card, override, read_card
from mimzoo.data.datasets import read_dataset
from mimzoo.data.layouts import convert
from mimzoo.deploy import Predictor, RegionSegmenter
from mimzoo.evaluate import compare, evaluate, evaluate_folds
from mimzoo.export import export
from mimzoo.finetune import finetune
from mimzoo.metrics import score_masks

LEARNING = [
    "finetuning.start=null",
    "finetuning.accumulate=1",
    "finetuning.optimiser.warmup_steps=5",
    "finetuning.optimiser.lr=5.0e-3",
    "finetuning.augmentation={}",
]
TUMOURS = [
    *LEARNING,
    "encoder={name: swin-tiny, args: {width: 12, depths: [1, 1], heads: [3, 6]}}",
    "input.crop=[24, 24, 24]",
    "finetuning.steps=60",
    "finetuning.validate_every=20",
    "finetuning.batch=2",
    "finetuning.foreground=0.7",
    "finetuning.overlap=0.5",
]
BRAINS = [
    *LEARNING,
    "encoder={name: vit-tiny, args: {patch: [8, 7, 8], width: 24, depth: 4, heads: 2}}",
    "input.spacing_mm=[1.0, 1.0, 1.0]",
    "input.crop=[24, 28, 24]",
    "finetuning.optimiser.lr=1.0e-3",
    "finetuning.steps=200",
    "finetuning.validate_every=50",
    "finetuning.batch=8",
]


def mimzoo(*arguments):
    """What a command prints; it must succeed."""
    done = subprocess.run([sys.executable, "-m", "mimzoo", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tumours(tmp_path_factory):
    """A generated download of BraTS 2021, converted."""
    folder = write_tumours(tmp_path_factory.mktemp("raw") / "brats", 15)
    convert("brats2021", folder)
    return folder


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """A generated download of ADNI, converted."""
    folder = write_ventricles(tmp_path_factory.mktemp("raw") / "adni", 60)
    convert("adni", folder)
    return folder


@pytest.fixture(scope="module")
def drawing(tumours, tmp_path_factory):
    """The folder of a run that learned the regions of tumours, exported on a real case."""
    run = tmp_path_factory.mktemp("runs") / "run"
    finetune(override(find_card("swin-mae-brats-seg"), TUMOURS), tumours, run)
    _, parities = export(run, scan=read_dataset(tumours).validation[0].images)
    assert all(parity.holds() for parity in parities) and len(parities) == 2
    return run


def test_regions_in_four_channels_go_from_raw_files_to_masks_without_torch(tumours, drawing, tmp_path):
    result, folder = evaluate(drawing, tumours)
    regions = result.summary.classes
    assert list(regions) == ["WT", "TC", "ET"] and (folder / "overlays.png").is_file()
    # Drawing every voxel scores 2 f / (1 + f) for a region that fills the share f, here at most 0.13.
    assert regions["WT"].metrics["dice"].mean > 0.6 and regions["TC"].metrics["dice"].mean > 0.5

    case = read_dataset(tumours).validation[0]
    mimzoo("segment", drawing, ",".join(map(str, case.images)), "-o", tmp_path / "masks")
    drawn = {path.name: np.asarray(nib.load(path).dataobj) for path in (tmp_path / "masks").glob("*.nii.gz")}
    stem = case.images[0].name.removesuffix(".nii.gz")
    assert sorted(drawn) == [f"{stem}-{name}.nii.gz" for name in ("ET", "TC", "WT")]
    masks = [drawn[f"{stem}-{name}.nii.gz"] for name in regions]
    truth = np.asarray(nib.load(case.label).dataobj)
    true = [np.isin(truth, values) for values in ((1, 2, 4), (1, 4), (4,))]
    scoring = read_card(drawing).block.finetuning.scoring
    found = score_masks([mask != 0 for mask in masks], true, list(regions), (1.0, 1.0, 1.0), scoring)
    for name, score in found.items():
        assert score.dice == pytest.approx(result.cases[case.id][name].dice, abs=0.01)


def test_the_order_of_the_files_matters_and_is_that_of_the_card(tumours, drawing):
    segment, case = RegionSegmenter(drawing), read_dataset(tumours).validation[0]
    assert [path.name.split("_")[-1].split(".")[0] for path in case.images] == list(SEQUENCES)
    right, wrong = segment(case.images), segment(case.images[::-1])
    assert any((right.masks[name] != wrong.masks[name]).any() for name in right.masks)


def test_classes_go_from_raw_files_to_probabilities_without_torch(brains, tmp_path):
    card = override(find_card("vit-mae-adni-cls"), BRAINS)
    finetune(card, brains, tmp_path / "run")
    result, folder = evaluate(tmp_path / "run", brains)
    # A coin has 0.5; with 12 cases, 10 right by chance happen to one coin in fifty.
    assert result.summary.accuracy.n == 12 and result.summary.balanced_accuracy.value > 0.8
    assert result.summary.auc.value > 0.85
    quoted = {metric.name: metric.value for metric in read_card(folder).block.metrics}
    assert quoted["auc"] == round(result.summary.auc.value, 4)

    cases = read_dataset(brains).validation
    model, parities = export(tmp_path / "run", scan=cases[0].image)
    assert all(parity.holds() for parity in parities)
    mimzoo("predict", model, *(case.image for case in cases), "-o", tmp_path / "told.csv")
    with (tmp_path / "told.csv").open() as stream:
        rows = {row["scan"]: (float(row["CN"]), float(row["AD"])) for row in csv.DictReader(stream)}
    for case in cases:
        told = result.cases[case.id].told
        assert rows[str(case.image)] == pytest.approx((told["CN"], told["AD"]), abs=1e-3)
        assert sum(rows[str(case.image)]) == pytest.approx(1, abs=1e-4)


def test_a_value_is_told_in_its_own_unit(brains, tmp_path):
    """The width of the ventricles says little of the age, but the mean age is known: the units are years."""
    card = override(
        find_card("vit-mae-adni-cls"), [*BRAINS, "finetuning.steps=20", "target={column: age, unit: years}"]
    )
    finetune(card, brains, tmp_path / "run")
    result, _ = evaluate(tmp_path / "run", brains)
    assert 0 < result.summary.mean_absolute_error.value < 20
    case = read_dataset(brains).validation[0]
    told = Predictor(export(tmp_path / "run")[0])(case.image)
    assert told.keys() == {"age"} and 50 < told["age"] < 100
    assert told["age"] == pytest.approx(result.cases[case.id].told["age"], rel=1e-4)


def test_folds_pool_and_two_runs_are_compared_case_by_case(brains, tmp_path):
    short = override(find_card("vit-mae-adni-cls"), [*BRAINS, "finetuning.steps=10", "finetuning.validate_every=10"])
    runs = []
    for fold in range(2):
        runs.append(tmp_path / f"fold{fold}")
        finetune(override(short, [f"finetuning.fold={{folds: 2, fold: {fold}}}"]), brains, runs[-1])
    result, folder = evaluate_folds(runs, brains, tmp_path / "pooled")
    assert len(result.cases) == 60 and json.loads((folder / "metrics.json").read_text())["split"] == "folds"
    parts = [set(json.loads((folder / f"fold-{n}" / "metrics.json").read_text())["cases"]) for n in range(2)]
    assert not parts[0] & parts[1] and parts[0] | parts[1] == set(result.cases)

    same, _ = compare(runs[0], runs[0], brains, out=tmp_path / "compared")
    assert (same.n, same.mean_difference, same.p_value, same.ties) == (30, 0.0, 1.0, 30)
