"""Label maps and region masks: in and out of files with their names and grids, whole or not at all."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import save

from mimzoo.errors import ScanError
from mimzoo.grids import Grid
from mimzoo.masks import LabelMap, RegionMap, read_labels, region_paths, slug, write_labels

NAMES = {1: "Anterior", 2: "Posterior"}
AFFINE = np.array([[0, 0, -2.0, 10], [3, 0, 0, -20], [0, 1.5, 0, 30], [0, 0, 0, 1]])
GRID = Grid((6, 7, 8), AFFINE)
MASK = Path("out") / "case.nii.gz"


def ramp(shape=(6, 7, 8), dtype=np.float32):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def some_labels(grid=GRID, names=None):
    return LabelMap((ramp(grid.shape) % 3).astype(np.uint8), grid, names or {})


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- label files


def test_labels_and_their_names_survive_a_file(tmp_path):
    grid = Grid((6, 7, 8), AFFINE.astype(np.float32).astype(float), 1)
    labels = some_labels(grid, NAMES)
    for name in ("a.nii.gz", "a.nii"):
        labels.save(tmp_path / name)
        back = read_labels(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(back), labels.voxels)
        np.testing.assert_array_equal(back.grid.affine, grid.affine)
        assert back.names == NAMES and back.grid.space == 1 and back.name == str(tmp_path / name)
    assert read_labels(tmp_path / "a.nii", {1: "x", 2: "y"}).names == {1: "x", 2: "y"}
    assert nib.load(tmp_path / "a.nii.gz").get_data_dtype() == np.uint8


def test_the_same_labels_give_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    labels = some_labels(names=NAMES)
    labels.save(tmp_path / "a.nii.gz")
    monkeypatch.setattr(gzip.time, "time", lambda: 1e9)
    labels.save(tmp_path / "b.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_the_order_in_which_names_are_given_does_not_matter(tmp_path):
    some_labels(names={2: "b", 1: "a"}).save(tmp_path / "a.nii")
    write_labels(str(tmp_path / "b.nii"), some_labels(names={1: "a", 2: "b"}))
    assert (tmp_path / "a.nii").read_bytes() == (tmp_path / "b.nii").read_bytes()


def test_comments_of_other_programs_are_no_names(tmp_path):
    for text in (
        b"segmented by hand",
        b"[1, 2]",
        b'{"mimzoo_labels": 3}',
        b"\xff\xfe",
        b'{"mimzoo_labels": {"x": 1}}',
    ):
        image = nib.Nifti1Image((ramp() % 3).astype(np.uint8), np.eye(4))
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", text))
        nib.save(image, tmp_path / "a.nii.gz")
        assert read_labels(tmp_path / "a.nii.gz").names == {}


def test_whole_numbers_stored_as_float_are_labels(tmp_path):
    labels = read_labels(save(tmp_path / "a.nii.gz", ramp() % 3), NAMES)
    assert labels.voxels.dtype == np.uint8
    np.testing.assert_array_equal(labels.voxels, ramp() % 3)


def test_an_empty_label_map_is_allowed(tmp_path):
    assert not read_labels(save(tmp_path / "a.nii.gz", ramp() * 0), NAMES).voxels.any()


def test_a_sheared_grid_survives_a_file_without_a_qform(tmp_path):
    affine = np.eye(4)
    affine[0, 1] = 0.25
    some_labels(Grid((6, 7, 8), affine)).save(tmp_path / "a.nii")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.nii").grid.affine, affine)
    assert int(nib.load(tmp_path / "a.nii").header["qform_code"]) == 0


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [(ramp() * 0.5, "0.5 is not a whole"), (ramp(dtype=np.int16) - 5, "-5"), (ramp((9, 9, 9), np.int16), "256")],
)
def test_label_values_that_are_no_labels_are_refused(tmp_path, voxels, reason):
    with pytest.raises(ScanError, match=reason):
        read_labels(save(tmp_path / "a.nii.gz", voxels))


def test_nan_labels_are_refused(tmp_path):
    with pytest.raises(ScanError, match="nan is not a whole"):
        read_labels(save(tmp_path / "a.nii.gz", np.where(ramp() == 9, np.nan, 0)))


def test_unnamed_label_values_are_refused(tmp_path):
    path = save(tmp_path / "a.nii.gz", (ramp() % 4).astype(np.uint8))
    assert read_labels(path).voxels.max() == 3
    with pytest.raises(ScanError, match=r"\[3\] are not among \[0, 1, 2\]"):
        read_labels(path, NAMES)


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path, monkeypatch):
    labels = some_labels()
    labels.save(tmp_path / "a.nii.gz")
    before = content(tmp_path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib.Nifti1Image, "to_stream", fail)
    with pytest.raises(ScanError, match="No space left"):
        labels.save(tmp_path / "a.nii.gz")
    assert content(tmp_path) == before


def test_names_and_folders_that_cannot_be_written_are_refused(tmp_path):
    with pytest.raises(ScanError, match=r"ends in \.nii"):
        some_labels().save(tmp_path / "a.png")
    with pytest.raises(ScanError, match="No such file"):
        some_labels().save(tmp_path / "none" / "a.nii")


# --- label values of a data set


STORED = {205: 1, 420: 2, 421: 2}


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.float64])
def test_stored_values_become_label_values(tmp_path, dtype):
    stored = np.random.default_rng(0).choice([0, 205, 420, 421], (6, 7, 8))
    labels = read_labels(save(tmp_path / "a.nii.gz", stored.astype(dtype)), NAMES, STORED)
    np.testing.assert_array_equal(labels.voxels, np.select([stored == 205, stored >= 420], [1, 2], 0))
    assert labels.voxels.dtype == np.uint8 and labels.voxels.flags.c_contiguous and labels.names == NAMES


def test_values_may_trade_places(tmp_path):
    path = save(tmp_path / "a.nii.gz", (ramp() % 3).astype(np.uint8))
    swapped = read_labels(path, NAMES, {1: 2, 2: 1}).voxels
    np.testing.assert_array_equal(swapped, np.array([0, 2, 1])[(ramp() % 3).astype(int)])


def test_negative_values_and_background_may_be_mapped(tmp_path):
    path = save(tmp_path / "a.nii.gz", (ramp() % 3).astype(np.int16) - 1)
    np.testing.assert_array_equal(read_labels(path, NAMES, {-1: 0, 1: 2}).voxels, (ramp() % 3 == 2) * 2)


def test_no_values_leave_labels_as_they_are(tmp_path):
    path = save(tmp_path / "a.nii.gz", (ramp() % 3).astype(np.uint8))
    np.testing.assert_array_equal(read_labels(path, NAMES, {}).voxels, ramp() % 3)


@pytest.mark.parametrize(("value", "said"), [(7, "7"), (-1, "-1"), (0.5, "0.5"), (np.nan, "nan"), (1, "1")])
def test_values_that_the_data_set_does_not_map_are_refused(tmp_path, value, said):
    path = save(tmp_path / "a.nii.gz", np.where(ramp() == 9, value, 205).astype(np.float32))
    with pytest.raises(ScanError, match=rf"label value\(s\) {said} are not among .* \[0, 205, 420, 421\]") as caught:
        read_labels(path, NAMES, STORED)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_first_five_unknown_values_are_named(tmp_path):
    with pytest.raises(ScanError, match=r"value\(s\) 1, 2, 3, 4, 5 are"):
        read_labels(save(tmp_path / "a.nii.gz", ramp(dtype=np.int16)), NAMES, STORED)


def test_mapped_values_without_a_name_are_refused(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.where(ramp() == 9, 420, 0).astype(np.int16))
    with pytest.raises(ScanError, match=r"\[2\] are not among \[0, 1\]"):
        read_labels(path, {1: "Anterior"}, STORED)


# --- regions


def regions(**masks):
    masks = masks or {"WT": ramp() > 100, "TC": ramp() > 200, "ET": ramp() > 300}
    return RegionMap({name: mask.astype(np.uint8) for name, mask in masks.items()}, GRID)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".NII.gz"])
def test_each_region_has_a_file_with_its_name_and_grid(tmp_path, ending):
    written = regions().save(str(tmp_path / f"case.v2{ending}"))
    assert [path.name for path in written] == [f"case.v2-{name}{ending}" for name in ("WT", "TC", "ET")]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    for path, (name, mask) in zip(written, regions().masks.items(), strict=True):
        back = read_labels(path)
        np.testing.assert_array_equal(back.voxels, mask)
        np.testing.assert_array_equal(back.grid.affine, AFFINE)
        assert back.names == {1: name}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("WT", "WT"),
        ("whole tumour", "whole-tumour"),
        ("left / right", "left-right"),
        ("a_b", "a-b"),
        ("../x", "x"),
        ("Läsion", "Läsion"),
        ("腫瘍", "腫瘍"),
        ("+", ""),
    ],
)
def test_a_name_becomes_a_part_of_a_file_name(name, expected):
    assert slug(name) == expected


@given(st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_no_name_leaves_its_folder(name):
    (path,) = region_paths(MASK, [name]).values()
    assert path.parent == MASK.parent and path.name.startswith("case-") and path.name.endswith(".nii.gz")


@pytest.mark.parametrize("names", [("a b", "a-b"), ("+", "-")])
def test_regions_that_would_share_a_file_are_refused(tmp_path, names):
    with pytest.raises(ScanError, match=r"case\.nii: the regions .* would share a file"):
        regions(**dict.fromkeys(names, ramp() > 3)).save(tmp_path / "case.nii")
    assert not content(tmp_path)


def test_a_name_that_is_no_nifti_name_is_refused(tmp_path):
    with pytest.raises(ScanError, match=r"ends in \.nii"):
        regions().save(tmp_path / "case.png")
    assert not content(tmp_path)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_when_one_region_fails_none_is_left(tmp_path, monkeypatch, error):
    written = nib.Nifti1Image.to_stream

    def full_after_two(image, stream):
        if len(content(tmp_path)) > 2:
            stream.write(b"half")
            raise error
        written(image, stream)

    monkeypatch.setattr(nib.Nifti1Image, "to_stream", full_after_two)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ScanError):
        regions().save(tmp_path / "case.nii.gz")
    assert not content(tmp_path)
