"""Volumes and intensities of labels: as numpy says over the whole scan, in millilitres and in the scan's own units."""

import csv
import json

import numpy as np
import pytest
from thresholds import OBLIQUE, SHAPE, noise

from mimzoo.deploy.records import Maker, Record
from mimzoo.deploy.statistics import measure, voxel_ml, write_statistics
from mimzoo.errors import DataError
from mimzoo.volume import Grid, LabelMap, Volume, read_labels, read_scan

NAMES = {1: "Liver", 2: "Spleen", 3: "Nothing"}
MAKER = Maker(card="thresholds", model_sha256="ab" * 32, settings={"overlap": 0.5})


def a_case(offset=0.0):
    """Labels on an oblique scan of two channels."""
    rng = np.random.default_rng(0)
    voxels = np.stack([noise(SHAPE), noise(SHAPE, 1)]).astype(np.float32) + np.float32(offset)
    grid = Grid(SHAPE, OBLIQUE)
    return LabelMap(rng.integers(0, 3, SHAPE, np.uint8), grid, NAMES), Volume(voxels, grid)


def test_a_voxel_has_the_volume_of_its_affine():
    assert voxel_ml(Grid(SHAPE, OBLIQUE)) == pytest.approx(1.1 * 0.8 * 2.5 / 1000)


def test_each_label_is_measured_as_numpy_does_over_the_whole_scan():
    labels, scan = a_case()
    rows = measure("mask.nii.gz", labels, scan)
    assert [(row.label, row.value, row.mask) for row in rows] == [(n, v, "mask.nii.gz") for v, n in NAMES.items()]
    for row in rows[:2]:
        inside = scan.voxels[:, labels.voxels == row.value].astype(float)
        assert row.voxels == inside.shape[1] and row.ml == pytest.approx(row.voxels * 0.0022)
        np.testing.assert_allclose(row.mean, inside.mean(1), rtol=1e-12)
        np.testing.assert_allclose(row.std, inside.std(1), rtol=1e-12)
    assert (rows[2].voxels, rows[2].ml, rows[2].mean, rows[2].std) == (0, 0, (None, None), (None, None))


def test_small_deviations_of_large_numbers_keep_their_digits():
    labels, scan = a_case(offset=2.0**23)
    row = measure("mask.nii.gz", labels, scan)[0]
    np.testing.assert_allclose(row.std, scan.voxels[:, labels.voxels == 1].astype(float).std(1), rtol=1e-9)


def test_real_labels_have_the_volume_that_their_voxels_have(data_root):
    folder = data_root / "fixtures" / "abdomen-example"
    labels = read_labels(folder / "labels" / "ct_abdomen.nii.gz", None)
    scan = read_scan(folder / "images" / "ct_abdomen.nii.gz")
    named = LabelMap(labels.voxels, labels.grid, {5: "Liver"})
    row = measure("mask.nii.gz", named, scan)[0]
    assert row.ml == pytest.approx(np.count_nonzero(labels.voxels == 5) * np.prod(scan.grid.spacing_mm) / 1000)
    assert row.mean[0] == pytest.approx(scan.voxels[0][labels.voxels == 5].mean(dtype=float))


def record(scan, **changes):
    labels, volume = a_case()
    about = {"files": (), "maker": MAKER, "run_by": "", "channels": ("T1", "T2")}
    return Record(scan=scan, labels=measure(f"{scan}.nii.gz", labels, volume), **{**about, **changes})


def test_the_tables_hold_the_scans_of_one_maker_that_did_not_fail(tmp_path):
    other = MAKER.model_copy(update={"settings": {"overlap": 0.25}})
    given = [
        record("a"),
        record("b", maker=other),
        record("c", failure="c: no such file"),
        record("ä", warnings=("x",)),
    ]
    write_statistics(tmp_path, MAKER, given)
    with (tmp_path / "statistics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("scan", "mask", "label", "value", "voxels", "ml"),
        *("mean T1", "std T1", "mean T2", "std T2"),
    ]
    assert [(row["scan"], row["label"]) for row in rows] == [(s, n) for s in ("a", "ä") for n in NAMES.values()]
    known = given[0].labels[1]
    assert float(rows[1]["std T2"]) == pytest.approx(known.std[1], rel=1e-5) and rows[2]["mean T1"] == ""
    tree = json.loads((tmp_path / "statistics.json").read_text())
    assert tree["card"] == "thresholds" and tree["settings"] == {"overlap": 0.5}
    assert tree["scans"][1]["warnings"] == ["x"]
    assert tree["scans"][0]["labels"][1]["std"] == {"T1": known.std[0], "T2": known.std[1]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["statistics.csv", "statistics.json"]


def test_tables_that_cannot_be_written_are_refused_and_leave_nothing(tmp_path):
    (tmp_path / "statistics.csv").mkdir()
    with pytest.raises(DataError, match="the statistics cannot be written"):
        write_statistics(tmp_path, MAKER, [record("a")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["statistics.csv", "statistics.json"]
