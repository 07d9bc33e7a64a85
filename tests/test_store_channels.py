"""The prepared store of data sets with several channels, or with label values of their own."""

import json

import numpy as np
import pytest
from scans import MR, save

from mimzoo.data.datasets import read_dataset
from mimzoo.data.reading import read_case
from mimzoo.data.store import prepare_dataset, store_folder
from mimzoo.errors import DataError
from mimzoo.volume import prepare, prepare_labels, read_labels, read_scan

CHANNELS = ("DWI", "ADC", "FLAIR")
NAMES = {1: "Core", 2: "Edema"}
SHAPE = (20, 18, 16)


def seeing(*channels, spacing_mm=(2.0, 2.0, 2.0)):
    """The input of a model that sees these channels, by default at the spacing of all but FLAIR."""
    return MR.model_copy(update={"channels": channels, "spacing_mm": spacing_mm})


def shown(name, case, shape=SHAPE):
    return np.random.default_rng([case, *name.encode()]).normal(50, 9, shape).astype(np.float32)


def stored_labels(case):
    """Labels as ISLES or MM-WHS might store them: 0, 205 and 420."""
    return np.random.default_rng(case).choice([0, 205, 420], SHAPE).astype(np.int16)


@pytest.fixture
def folder(tmp_path):
    """Case 0 with a file for each channel, FLAIR on a finer grid; case 1 with one 4D file; both with labels."""
    folder, entries = tmp_path / "stroke", []
    files = [save(folder / f"0_{name}.nii.gz", shown(name, 0), (2, 2, 2)) for name in CHANNELS[:2]]
    files.append(save(folder / "0_FLAIR.nii.gz", shown("FLAIR", 0, (40, 36, 32)), (1, 1, 1)))
    whole = save(folder / "1.nii.gz", np.stack([shown(name, 1) for name in CHANNELS], -1), (2, 2, 2))
    for number, image in enumerate(([path.name for path in files], whole.name)):
        label = save(folder / f"{number}_label.nii.gz", stored_labels(number), (2, 2, 2))
        entries.append({"id": str(number), "image": image, "label": label.name})
    manifest = {
        "channel_names": {str(number): name for number, name in enumerate(CHANNELS)},
        "labels": {"0": "background", "1": "Core", "2": "Edema"},
        "values": {"205": 1, "420": 2},
        "training": entries[:1],
        "validation": entries[1:],
    }
    (folder / "dataset.json").write_text(json.dumps(manifest))
    return folder


def change(folder, **changes):
    manifest = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**manifest, **changes}))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "prepared"


def cases_of(folder, input, root, labels=NAMES):
    store = prepare_dataset(read_dataset(folder), input, labels, root)
    return [*store.cases("training"), *store.cases("validation")]


def expected(channels, case):
    """The prepared channels of a case on the grid of DWI, where every other voxel of the finer FLAIR lies."""
    finer = {"FLAIR": (40, 36, 32)} if case == 0 else {}
    voxels = [shown(name, case, finer.get(name, SHAPE)) for name in channels]
    voxels = [v[::2, ::2, ::2] if v.shape != SHAPE else v for v in voxels]
    normed = np.stack([(v - v.mean(dtype=float)) / v.std(dtype=float) for v in voxels])
    return normed.astype(np.float16)


@pytest.mark.parametrize("channels", [CHANNELS, ("DWI", "FLAIR"), ("ADC", "DWI"), ("ADC",)], ids="-".join)
def test_a_store_holds_the_models_channels_in_its_order_on_the_first_ones_grid(folder, root, channels):
    for number, case in enumerate(cases_of(folder, seeing(*channels), root)):
        voxels, labels = case.read()
        assert voxels.shape == (len(channels), *SHAPE) and case.grid.spacing_mm == (2, 2, 2)
        np.testing.assert_allclose(voxels, expected(channels, number), atol=2e-3)
        np.testing.assert_array_equal(labels, np.select([stored_labels(number) == v for v in (205, 420)], [1, 2], 0))
        np.testing.assert_array_equal(case.minimum, voxels.min(axis=(1, 2, 3)))


def test_a_crop_of_several_channels_is_a_part_of_the_whole(folder, root):
    for case in cases_of(folder, seeing("FLAIR", "ADC"), root, labels=None):
        whole, _ = case.read()
        part, labels = case.read_crop((3, 0, 9), (4, 7, 2))
        np.testing.assert_array_equal(part, whole[:, 3:7, :7, 9:11])
        assert labels is None


def test_a_store_is_what_deployment_sees_of_the_same_files(folder, root):
    input = seeing(*CHANNELS, spacing_mm=(1.0, 1.5, 3.0))
    for name, case in zip(("training", "validation"), cases_of(folder, input, root), strict=True):
        (listed,) = read_dataset(folder).cases(name)
        seen = prepare(read_scan([str(path) for path in listed.images], 3), input)
        np.testing.assert_array_equal(case.read()[0], seen.voxels.astype(np.float16))
        np.testing.assert_array_equal(case.grid.affine, seen.grid.affine)
        truth = prepare_labels(read_labels(listed.label, NAMES, {205: 1, 420: 2}), input.spacing_mm)
        np.testing.assert_array_equal(case.read()[1], truth.voxels)


# --- what is done again


def test_the_folder_is_keyed_by_channels_and_values(folder, root):
    def key(*channels):
        return store_folder(root, read_dataset(folder), seeing(*channels), NAMES)

    keys = {key("DWI", "ADC"), key("ADC", "DWI"), key("DWI"), key("FLAIR", "ADC")}
    before = key("DWI", "ADC")
    assert len(keys) == 4 and before in keys
    change(folder, values={"205": 2, "420": 1})
    swapped = key("DWI", "ADC")
    change(folder, channel_names={"0": "ADC", "1": "DWI", "2": "FLAIR"})
    assert len({before, swapped, key("DWI", "ADC")}) == 3


def test_channels_that_were_named_wrongly_are_read_anew(folder, root):
    cases_of(folder, seeing("DWI"), root)
    change(folder, channel_names={"0": "ADC", "1": "DWI", "2": "FLAIR"})
    for number, case in enumerate(cases_of(folder, seeing("DWI"), root)):
        np.testing.assert_allclose(case.read()[0], expected(("ADC",), number), atol=2e-3)


@pytest.mark.parametrize(("name", "again"), [("DWI", True), ("FLAIR", True), ("ADC", False)])
def test_a_change_of_any_file_that_is_seen_prepares_its_case_again(folder, root, name, again):
    input = seeing("DWI", "FLAIR")
    before = [case.image for case in cases_of(folder, input, root)]
    shape, spacing = ((40, 36, 32), (1, 1, 1)) if name == "FLAIR" else (SHAPE, (2, 2, 2))
    save(folder / f"0_{name}.nii.gz", shown("new", 0, shape), spacing)
    after = cases_of(folder, input, root)
    assert (after[0].image != before[0]) == again and after[1].image == before[1]
    (listed,) = read_dataset(folder).training
    seen = prepare(read_case(listed, read_dataset(folder), input), input)
    np.testing.assert_array_equal(after[0].read()[0], seen.voxels.astype(np.float16))


# --- what cannot be used


def test_a_channel_that_the_data_set_lacks_is_refused_before_anything_is_prepared(folder, root):
    with pytest.raises(DataError, match="the model sees the channel 'T1', but the data set has DWI, ADC, FLAIR"):
        prepare_dataset(read_dataset(folder), seeing("DWI", "T1"), NAMES, root)
    assert not root.exists()


def test_bad_channels_and_values_are_reported_case_by_case(folder, root):
    save(folder / "0_FLAIR.nii.gz", shown("FLAIR", 0) * np.nan)
    save(folder / "1_label.nii.gz", stored_labels(1) + 1, (2, 2, 2))
    with pytest.raises(DataError) as caught:
        prepare_dataset(read_dataset(folder), seeing(*CHANNELS), NAMES, root)
    head, first, second = str(caught.value).splitlines()
    assert head == f"{folder}: 2 of 2 cases cannot be used:"
    assert first.startswith("  0: ") and "0_FLAIR.nii.gz: some voxels are NaN" in first
    assert second.startswith("  1: ") and "label value(s) 1, 206, 421 are not among" in second


def test_a_mask_on_the_grid_of_another_channel_is_reported(folder, root):
    with pytest.raises(DataError, match=r"1 of 2 cases .*\n  0: .*FLAIR\.nii\.gz has shape .* but its labels"):
        prepare_dataset(read_dataset(folder), seeing("FLAIR", "DWI"), NAMES, root)
