"""Phantoms: the same for the same seed, readable as a data set, and neither trivial nor hopeless to segment."""

import hashlib
import json
import subprocess
import sys
from collections import Counter

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from mimzoo.data.datasets import read_dataset
from mimzoo.errors import DataError
from mimzoo.phantoms import LABELS, make_phantom, write_phantoms
from mimzoo.volume import check_pair, read_labels, read_scan, to_ras

SMALL = {"shape": (32, 32, 24), "spacing_mm": (10.0, 10.0, 12.0)}
CASES = {"training": 4, "validation": 1, "unlabelled": 2}


@pytest.fixture(scope="module")
def drawn():
    """Eight phantoms to learn from and six to judge by, of the default size."""
    return [make_phantom((7, 0, n)) for n in range(8)], [make_phantom((7, 1, n)) for n in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, CASES, seed=3, **SMALL)
    return folder


def hashes(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def dice(prediction, truth):
    values = [(prediction == k, truth == k) for k in LABELS]
    return np.array([2 * (p & t).sum() / (p.sum() + t.sum()) for p, t in values])


# --- one phantom ------------------------------------------------------------------------------------------------------


def test_a_phantom_looks_like_ct(drawn):
    for scan, labels in drawn[0]:
        assert scan.voxels.shape == (1, 64, 64, 48) and scan.voxels.dtype == np.float32
        assert labels.voxels.shape == (64, 64, 48) and labels.voxels.dtype == np.uint8
        assert (scan.voxels == scan.voxels.round()).all()
        assert scan.voxels.min() == -1000 and 200 < scan.voxels.max() < 800
        # The air around the body is exactly constant, as a scanner leaves it.
        corners = scan.voxels[0][np.ix_((0, 1, -2, -1), (0, 1, -2, -1))]
        assert (corners == -1000).all() and 0.3 < (scan.voxels == -1000).mean() < 0.7


def test_every_organ_is_there_and_is_one_piece(drawn):
    for _, labels in [*drawn[0], *drawn[1]]:
        for value in LABELS:
            pieces, _ = label(labels.voxels == value)
            sizes = np.bincount(pieces.ravel())[1:]
            assert sizes.sum() > 200
            assert sizes.max() > 0.95 * sizes.sum()


def test_organs_lie_on_their_side(drawn):
    for _, labels in [*drawn[0], *drawn[1]]:
        # In RAS+ the patient's right is at high X.
        x = {name: np.argwhere(labels.voxels == value)[:, 0].mean() for value, name in LABELS.items()}
        assert min(x["Liver"], x["RightKidney"]) > 32 > max(x["Spleen"], x["LeftKidney"])


def test_spacing_is_anisotropic_and_varies(drawn):
    spacings = [scan.grid.spacing_mm for scan, _ in drawn[0]]
    assert len(set(spacings)) == len(spacings)
    assert all(x != z and 4.9 < x < 5.5 and 5.5 < z < 6.5 for x, _, z in spacings)


def test_the_seed_decides_everything():
    one, same, other = make_phantom(5, **SMALL), make_phantom(5, **SMALL), make_phantom(6, **SMALL)
    assert np.array_equal(one[0].voxels, same[0].voxels) and np.array_equal(one[1].voxels, same[1].voxels)
    assert np.array_equal(one[0].grid.affine, same[0].grid.affine)
    assert not np.array_equal(one[0].voxels, other[0].voxels)


# --- the task ---------------------------------------------------------------------------------------------------------


def grey(scan):
    return np.clip((scan.voxels[0] + 160) / 8, 0, 49).astype(int)


def likelihoods(cases):
    counts = np.ones((5, 50))
    for scan, labels in cases:
        np.add.at(counts, (labels.voxels, grey(scan)), 1)
    return counts / counts.sum(1, keepdims=True)


def frequencies(cases):
    return np.mean([[labels.voxels == value for value in range(5)] for _, labels in cases], 0)


def test_intensity_alone_does_not_suffice(drawn):
    learnt, judged = drawn
    chances = likelihoods(learnt)
    for background in (1, 3, 10, 30):
        weighted = chances * np.array([background, 1, 1, 1, 1])[:, None]
        found = np.mean([dice(weighted.argmax(0)[grey(s)], t.voxels) for s, t in judged], 0)
        assert found.mean() < 0.3


def test_place_alone_does_not_suffice(drawn):
    learnt, judged = drawn
    for background in (1, 0.5, 0.3):
        places = frequencies(learnt) * np.array([background, 1, 1, 1, 1])[:, None, None, None]
        assert np.mean([dice(places.argmax(0), t.voxels) for _, t in judged]) < 0.65


def test_place_and_intensity_together_go_far(drawn):
    learnt, judged = drawn
    places = gaussian_filter(frequencies(learnt), (0, 1.5, 1.5, 1.5)) + 0.002
    chances = likelihoods(learnt)
    found = np.mean([dice((places * chances[:, grey(s)]).argmax(0), t.voxels) for s, t in judged], 0)
    assert 0.6 < found.mean() < 0.85


# --- the data set -----------------------------------------------------------------------------------------------------


def test_it_is_a_decathlon_data_set(folder):
    dataset = read_dataset(folder)
    assert Counter({s: len(getattr(dataset, s)) for s in CASES}) == CASES
    assert dataset.labels == LABELS
    table = json.loads((folder / "dataset.json").read_text())
    assert table["licence"] == "CC0-1.0" and table["numTraining"] == 4 and table["modality"] == {"0": "CT"}


def test_scans_are_int16_and_fit_their_labels(folder):
    dataset = read_dataset(folder)
    for case in (*dataset.training, *dataset.validation):
        assert nib.load(case.image).get_data_dtype() == np.int16
        assert nib.load(case.label).get_data_dtype() == np.uint8
        check_pair(read_scan(case.image), read_labels(case.label, LABELS))


def test_some_are_stored_in_other_orientations(folder):
    codes = [nib.aff2axcodes(nib.load(case.image).affine) for case in read_dataset(folder).training]
    assert codes == [tuple("RAS"), tuple("LPS"), tuple("RAS"), tuple("PSR")]


def test_stored_orientation_leads_back_to_the_phantom(folder):
    for number, case in enumerate(read_dataset(folder).training):
        scan, labels = make_phantom((3, 0, number), **SMALL)
        stored, truth = read_scan(case.image), read_labels(case.label)
        voxels, grid, _ = to_ras(stored.voxels, stored.grid)
        assert np.array_equal(voxels, scan.voxels)
        assert np.array_equal(to_ras(truth.voxels, truth.grid)[0], labels.voxels)
        assert grid.affine == pytest.approx(scan.grid.affine, abs=1e-3)


def test_the_same_seed_gives_the_same_bytes(folder, tmp_path):
    write_phantoms(tmp_path / "again", CASES, seed=3, **SMALL)
    assert hashes(tmp_path / "again") == hashes(folder)
    write_phantoms(tmp_path / "other", CASES, seed=4, **SMALL)
    assert not set(hashes(tmp_path / "other").values()) & set(hashes(folder).values())


def test_more_cases_keep_the_earlier_ones(folder, tmp_path):
    write_phantoms(tmp_path, {"training": 5, "unlabelled": 2}, seed=3, **SMALL)
    more = hashes(tmp_path)
    kept = {name: digest for name, digest in hashes(folder).items() if name in more and name != "dataset.json"}
    assert len(kept) == 10 and all(more[name] == digest for name, digest in kept.items())


def test_writing_again_mends_the_folder(tmp_path):
    path = write_phantoms(tmp_path, {"training": 1}, **SMALL)
    whole = hashes(tmp_path)
    image = tmp_path / "imagesTr" / "training_000.nii.gz"
    image.write_bytes(b"")
    assert write_phantoms(tmp_path, {"training": 1}, **SMALL) == path
    assert hashes(tmp_path) == whole


@pytest.mark.parametrize(
    ("cases", "says"),
    [
        ({"trainning": 1}, "did you mean 'training'"),
        ({"training": -1}, "0 or more, got -1"),
        ({"training": 0}, "no phantoms were asked for"),
        ({}, "no phantoms were asked for"),
    ],
)
def test_impossible_cases_are_refused(tmp_path, cases, says):
    with pytest.raises(DataError, match=says):
        write_phantoms(tmp_path / "new", cases)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"shape": (4, 64, 48)}, {"spacing_mm": (5.0, 0.0, 5.0)}, {"spacing_mm": (5.0, float("nan"), 5.0)}, {"seed": -1}],
)
def test_impossible_phantoms_are_refused(tmp_path, wrong):
    with pytest.raises(DataError):
        write_phantoms(tmp_path / "new", {"training": 1}, **wrong)
    assert not (tmp_path / "new" / "dataset.json").exists()


def test_a_different_data_set_is_not_overwritten(tmp_path):
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match="different data set"):
        write_phantoms(tmp_path, {"training": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["dataset.json"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        write_phantoms(tmp_path / "file", {"training": 1})


def test_phantoms_need_no_torch():
    code = "import sys, mimzoo.phantoms; sys.exit(any(m in sys.modules for m in ('torch', 'monai')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
