"""Cases as a model sees them: its channels by name from files of any order, its labels by value on the scan's grid."""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scans import MR, save

from mimzoo.data.cases import Case, Dataset
from mimzoo.data.datasets import read_dataset
from mimzoo.data.reading import pick_channels, read_case, read_truth, scan_files
from mimzoo.errors import DataError, ScanError
from mimzoo.volume import read_scan

BRAIN = ("FLAIR", "T1", "T1ce", "T2")
SHAPE = (8, 9, 7)


def seeing(*channels):
    """The input of a model that sees these channels."""
    return MR.model_copy(update={"channels": channels})


def shown(name, shape=SHAPE):
    """The voxels of a channel, which differ from those of all others."""
    return np.random.default_rng(list(name.encode())).normal(size=shape).astype(np.float32)


def a_dataset(*channels, **more):
    return Dataset("brain", Path("brain"), channels=channels, **more)


@pytest.fixture
def by_files(tmp_path):
    """A case with a file for each channel."""
    return Case("a", tuple(save(tmp_path / f"a_{name}.nii.gz", shown(name)) for name in BRAIN))


@pytest.fixture
def by_4d(tmp_path):
    """A case with all channels in one file."""
    return Case("a", (save(tmp_path / "a.nii.gz", np.stack([shown(name) for name in BRAIN], -1)),))


# --- which channels


@pytest.mark.parametrize(
    ("wanted", "known", "picked"),
    [
        (BRAIN, BRAIN, (0, 1, 2, 3)),
        (("T2", "FLAIR"), BRAIN, (3, 0)),
        (("T1ce",), BRAIN, (2,)),
        (("T1", "T2"), (), (0, 1)),
        (("CT",), (), (0,)),
        (("CT",), ("MRI",), (0,)),
    ],
)
def test_channels_are_picked_by_name_in_the_models_order(wanted, known, picked):
    assert pick_channels(a_dataset(*known), seeing(*wanted)) == picked


@pytest.mark.parametrize(
    ("wanted", "known", "reason"),
    [
        (("T1c",), BRAIN, r"brain: the model sees the channel 'T1c', but the data set has FLAIR, T1, .*mean 'T1ce'\?"),
        (("CT",), ("T1", "T2"), "sees the channel 'CT', .* known: T1, T2"),
        (("T1", "T2"), ("MRI",), "sees the channel 'T1', but the data set has MRI"),
        (("t1", "t2"), ("T1", "T2"), "'t1', .* set input.channels to those"),
    ],
)
def test_a_channel_that_the_data_set_lacks_is_refused_in_one_sentence(wanted, known, reason):
    with pytest.raises(DataError, match=reason) as caught:
        pick_channels(a_dataset(*known), seeing(*wanted))
    assert "\n" not in str(caught.value)


# --- which files


def test_files_follow_the_models_order_and_a_single_file_holds_all(by_files, by_4d):
    dataset = a_dataset(*BRAIN)
    assert [path.name for path in scan_files(by_files, dataset, seeing("T2", "T1"))] == ["a_T2.nii.gz", "a_T1.nii.gz"]
    assert scan_files(by_4d, dataset, seeing("T2", "T1")) == by_4d.images
    assert scan_files(by_files, a_dataset(), seeing(*"ABCD")) == by_files.images


@pytest.mark.parametrize(
    ("known", "wanted", "count", "reason"),
    [
        (BRAIN, ("T1",), 3, "case 'a' has 3 files where the channels are FLAIR, T1, T1ce, T2"),
        (BRAIN, ("T1",), 2, "case 'a' has 2 files"),
        # Nothing tells that the first two of four nameless files are the right ones.
        ((), ("T1", "T2"), 4, "case 'a' has 4 files where the channels are T1, T2; .* channel_names in dataset.json"),
        ((), ("CT",), 2, "case 'a' has 2 files where the channels are CT"),
        (("MRI",), ("CT",), 2, "case 'a' has 2 files where the channels are MRI"),
    ],
)
def test_a_case_without_one_file_for_each_channel_is_refused(by_files, known, wanted, count, reason):
    case = replace(by_files, images=by_files.images[:count])
    for read in (scan_files, read_case):
        with pytest.raises(DataError, match=reason):
            read(case, a_dataset(*known), seeing(*wanted))


# --- the scan


@pytest.mark.parametrize("form", ["by_files", "by_4d"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_case_has_the_models_channels_in_its_order(request, form, count):
    case = request.getfixturevalue(form)
    for wanted in list(permutations(BRAIN, count))[::5]:
        scan = read_case(case, a_dataset(*BRAIN), seeing(*wanted))
        np.testing.assert_array_equal(scan.voxels, [shown(name) for name in wanted])
        assert scan.voxels.flags.c_contiguous and scan.voxels.dtype == np.float32


@pytest.mark.parametrize("form", ["by_files", "by_4d"])
def test_channels_without_names_are_taken_as_they_come(request, form):
    scan = read_case(request.getfixturevalue(form), a_dataset(), seeing(*"ABCD"))
    np.testing.assert_array_equal(scan.voxels, [shown(name) for name in BRAIN])


@pytest.mark.parametrize("known", [(), ("MRI",)])
def test_a_single_channel_is_taken_whatever_it_is_called(tmp_path, known):
    case = Case("a", (save(tmp_path / "a.nii.gz", shown("T1")),))
    np.testing.assert_array_equal(read_case(case, a_dataset(*known), seeing("CT")).voxels, [shown("T1")])


@pytest.mark.parametrize(("known", "wanted"), [(BRAIN[:3], ("T1",)), ((), ("T1", "T2")), ((), ("CT",))])
def test_a_4d_file_of_another_number_of_channels_is_refused(by_4d, known, wanted):
    expected = len(known) or len(wanted)
    with pytest.raises(ScanError, match=f"has 4 channels where {expected} channel"):
        read_case(by_4d, a_dataset(*known), seeing(*wanted))


def test_files_that_are_not_picked_are_not_read(by_files):
    by_files.images[0].write_bytes(b"damaged")
    assert read_case(by_files, a_dataset(*BRAIN), seeing("T1", "T2")).voxels.shape == (2, *SHAPE)
    with pytest.raises(ScanError, match=r"a_FLAIR\.nii\.gz: not a NIfTI file"):
        read_case(by_files, a_dataset(*BRAIN), seeing("T1", "FLAIR"))


def test_the_first_channel_that_the_model_sees_decides_the_grid(tmp_path):
    dwi = save(tmp_path / "dwi.nii.gz", shown("DWI"), (2, 2, 2))
    flair = save(tmp_path / "flair.nii.gz", shown("FLAIR", (16, 18, 14)), (1, 1, 1))
    case, dataset = Case("a", (dwi, flair)), a_dataset("DWI", "FLAIR")
    for wanted, shape, spacing in ((("DWI", "FLAIR"), SHAPE, 2), (("FLAIR", "DWI"), (16, 18, 14), 1)):
        scan = read_case(case, dataset, seeing(*wanted))
        assert scan.grid.shape == shape and scan.grid.spacing_mm == (spacing,) * 3
    # Both grids begin at the same voxel centre, so that every other FLAIR voxel lies on one of DWI.
    scan = read_case(case, dataset, seeing("DWI", "FLAIR"))
    np.testing.assert_allclose(scan.voxels[1], shown("FLAIR", (16, 18, 14))[::2, ::2, ::2], atol=1e-5)


def test_a_data_set_on_disk_gives_the_channels_that_it_names(tmp_path):
    for name in BRAIN:
        save(tmp_path / f"a_{name}.nii.gz", shown(name))
    save(tmp_path / "b.nii.gz", np.stack([shown(name[::-1]) for name in reversed(BRAIN)], -1))
    (tmp_path / "dataset.json").write_text(
        '{"channel_names": {"0": "T2", "1": "T1ce", "2": "T1", "3": "FLAIR"}, "unlabelled": [{"id": "a", "image": '
        '["a_T2.nii.gz", "a_T1ce.nii.gz", "a_T1.nii.gz", "a_FLAIR.nii.gz"]}, "b.nii.gz"]}'
    )
    dataset = read_dataset(tmp_path)
    a, b = dataset.unlabelled
    np.testing.assert_array_equal(read_case(a, dataset, seeing("FLAIR", "T2")).voxels, [shown("FLAIR"), shown("T2")])
    np.testing.assert_array_equal(read_case(b, dataset, seeing("T1", "T2")).voxels, [shown("1T"), shown("2T")])


# --- the truth

NAMES = {1: "Ventricle", 2: "Atrium"}


def labelled(tmp_path, labels, affine=None):
    """A case on a flipped grid, and its label map on the same grid or another."""
    grid = np.array([[-2.0, 0, 0, 8], [0, 2, 0, -7], [0, 0, 3, 5], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(shown("CT"), grid), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(labels, grid if affine is None else affine), tmp_path / "a_label.nii.gz")
    return Case("a", (tmp_path / "a.nii.gz",), tmp_path / "a_label.nii.gz")


def test_the_truth_has_the_data_sets_values_turned_into_labels(tmp_path):
    stored = np.random.default_rng(0).choice([0, 205, 420], SHAPE).astype(np.int16)
    case = labelled(tmp_path, stored)
    truth = read_truth(case, read_scan(case.image), NAMES, {205: 1, 420: 2})
    np.testing.assert_array_equal(truth.voxels, np.select([stored == 205, stored == 420], [1, 2], 0))
    assert truth.names == NAMES


def test_without_values_the_truth_is_as_stored(tmp_path):
    stored = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    case = labelled(tmp_path, stored)
    np.testing.assert_array_equal(read_truth(case, read_scan(case.image), NAMES, {}).voxels, stored)


BAD_TRUTHS = {
    "another affine": (
        (np.zeros(SHAPE, np.uint8), np.diag([2.0, 2, 3, 1])),
        {},
        r"a\.nii\.gz and its labels .* lie up",
    ),
    "another shape": ((np.zeros((8, 9, 6), np.uint8),), {}, "has shape"),
    "unknown value": ((np.full(SHAPE, 3, np.uint8),), {}, r"\[3\] are not among \[0, 1, 2\]"),
    "unmapped value": ((np.full(SHAPE, 1, np.uint8),), {205: 1}, "1 are not among those of the data set"),
}


@pytest.mark.parametrize(("labels", "values", "reason"), BAD_TRUTHS.values(), ids=BAD_TRUTHS)
def test_a_truth_that_does_not_fit_its_scan_is_refused(tmp_path, labels, values, reason):
    case = labelled(tmp_path, *labels)
    with pytest.raises(ScanError, match=reason):
        read_truth(case, read_scan(case.image), NAMES, values)


def test_a_truth_on_the_grid_of_another_channel_is_refused(tmp_path):
    # As with ISLES seen by FLAIR first: the mask lies on DWI.
    files = (
        save(tmp_path / "dwi.nii", shown("DWI"), (2, 2, 2)),
        save(tmp_path / "flair.nii", shown("FLAIR", (16, 18, 14))),
    )
    case = Case("a", files, save(tmp_path / "label.nii", np.ones(SHAPE, np.uint8), (2, 2, 2)))
    dataset = a_dataset("DWI", "FLAIR")
    assert read_truth(case, read_case(case, dataset, seeing("DWI", "FLAIR")), NAMES, {}).voxels.all()
    with pytest.raises(ScanError, match=r"flair\.nii has shape .* but its labels .*label\.nii"):
        read_truth(case, read_case(case, dataset, seeing("FLAIR", "DWI")), NAMES, {})


def test_a_case_without_a_label_file_has_no_truth(tmp_path):
    case = Case("a", (save(tmp_path / "a.nii.gz", shown("CT")),))
    with pytest.raises(DataError, match="case 'a' has no label file"):
        read_truth(case, read_scan(case.image), NAMES, {})
