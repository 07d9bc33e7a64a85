"""Raw downloads become data sets by a dataset.json alone, whatever traps they hold."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from layouts import ABIDE_COLUMNS, ABIDE_ROWS, ADNI_COLUMNS, ADNI_ROWS, MAKERS, make_msd, mask, scan, state, table
from scans import make_dataset
from typer.testing import CliRunner

from mimzoo.cli_data import data_app
from mimzoo.data.check import check_dataset
from mimzoo.data.datasets import SPLITS, read_dataset
from mimzoo.data.layouts import LAYOUTS, convert, describe
from mimzoo.errors import DataError, UnknownNameError
from mimzoo.volume import check_pair, read_labels, read_scan

FLAIR_T1_T1CE_T2 = {"0": "FLAIR", "1": "T1", "2": "T1ce", "3": "T2"}
HEART = {
    "0": "background",
    "1": "left ventricular myocardium",
    "2": "left atrium",
    "3": "left ventricle",
    "4": "right atrium",
    "5": "right ventricle",
    "6": "ascending aorta",
    "7": "pulmonary artery",
}
HEART_VALUES = {"205": 1, "420": 2, "500": 3, "550": 4, "600": 5, "820": 6, "850": 7}


def pair(name, image, label, subject=None):
    return {"id": name, "subject": subject or name, "image": image, "label": label}


def lone(name, image, subject=None, targets=None):
    entry = {"id": name, "subject": subject or name, "image": image}
    return entry if targets is None else {**entry, "targets": targets}


def btcv(number):
    folder = "RawData/Training"
    return pair(f"img{number}", f"{folder}/img/img{number}.nii.gz", f"{folder}/label/label{number}.nii.gz")


def brats_2021(name, part):
    return [f"{part}/{name}/{name}_{sequence}.nii.gz" for sequence in ("flair", "t1", "t1ce", "t2")]


def brats_2023(name):
    return [f"{name}/{name}-{sequence}.nii.gz" for sequence in ("t2f", "t1n", "t1c", "t2w")]


def brats_2023_set(kind):
    first, second, other = (f"BraTS-{kind}-{case}" for case in ("00002-000", "00002-001", "00010-000"))
    patient = f"BraTS-{kind}-00002"
    return {
        "training": [pair(n, brats_2023(n), f"{n}/{n}-seg.nii.gz", patient) for n in (first, second)],
        "unlabelled": [lone(other, brats_2023(other), f"BraTS-{kind}-00010")],
    }


def heart(kind):
    stems = [f"{kind}_train/{kind}_train_{number}" for number in (1001, 1010)]
    return {
        "labels": HEART,
        "training": [pair(stem[9:], f"{stem}_image.nii.gz", f"{stem}_label.nii.gz") for stem in stems],
        "unlabelled": [lone(f"{kind}_test_2001", f"{kind}_test/{kind}_test_2001_image.nii.gz")],
    }


def lits(batch, number):
    folder = f"Training Batch {batch}"
    return pair(f"volume-{number}", f"{folder}/volume-{number}.nii", f"{folder}/segmentation-{number}.nii")


def isles(number):
    subject, visit = f"sub-strokecase000{number}", f"sub-strokecase000{number}/ses-0001"
    name = f"{subject}_ses-0001"
    images = [f"{visit}/dwi/{name}_dwi.nii.gz", f"{visit}/dwi/{name}_adc.nii.gz", f"{visit}/anat/{name}_FLAIR.nii.gz"]
    return pair(name, images, f"derivatives/{visit}/{name}_msk.nii.gz", subject)


def mrbrains(part):
    return [f"{part}/1/{sequence}.nii" for sequence in ("T1", "T1_IR", "T2_FLAIR")]


def adni(subject, date, place, image, targets=None):
    name = f"ADNI_{subject}_MR_MP-RAGE_Br_20070319113623975_S13408_I{image}.nii"
    return lone(f"{subject}_I{image}", f"ADNI/{subject}/MP-RAGE/{date}/{place}/{name}", subject, targets)


# What each miniature becomes, but for name, reference, licence and converted_by.
EXPECTED = {
    "btcv": {
        "modality": {"0": "CT"},
        "labels": {
            "0": "background",
            "1": "spleen",
            "2": "right kidney",
            "3": "left kidney",
            "4": "gallbladder",
            "5": "esophagus",
            "6": "liver",
            "7": "stomach",
            "8": "aorta",
            "9": "inferior vena cava",
            "10": "portal and splenic veins",
            "11": "pancreas",
            "12": "right adrenal gland",
            "13": "left adrenal gland",
        },
        "training": [btcv("0001")],
        "validation": [btcv("0035"), btcv("0040")],
        "unlabelled": [lone("img0061", "RawData/Testing/img/img0061.nii.gz")],
    },
    "brats2021": {
        "modality": FLAIR_T1_T1CE_T2,
        "labels": {"0": "background", "1": "necrotic tumor core", "2": "edema", "3": "enhancing tumor"},
        "values": {"1": 1, "2": 2, "4": 3},
        "training": [
            pair(name, brats_2021(name, "TrainingData"), f"TrainingData/{name}/{name}_seg.nii.gz")
            for name in ("BraTS2021_00000", "BraTS2021_00002")
        ],
        "unlabelled": [lone("BraTS2021_00001", brats_2021("BraTS2021_00001", "ValidationData"))],
    },
    "brats-met-2023": {
        "modality": FLAIR_T1_T1CE_T2,
        "labels": {
            "0": "background",
            "1": "non-enhancing tumor core",
            "2": "surrounding FLAIR hyperintensity",
            "3": "enhancing tumor",
        },
        **brats_2023_set("MET"),
    },
    "brats-ped-2023": {
        "modality": FLAIR_T1_T1CE_T2,
        "labels": {"0": "background", "1": "non-enhancing component", "2": "edema", "3": "enhancing tumor"},
        **brats_2023_set("PED"),
    },
    "mm-whs-ct": {"modality": {"0": "CT"}, "values": HEART_VALUES, **heart("ct")},
    "mm-whs-mr": {"modality": {"0": "MR"}, "values": {**HEART_VALUES, "421": 2}, **heart("mr")},
    "lits": {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "tumor"},
        "remarks": [
            "unlabelled, since the segmentation's header puts it elsewhere than the volume: volume-53; look at both, "
            "give the segmentation the volume's header where their voxels fit, and convert again"
        ],
        "training": [lits(1, 2), lits(1, 10)],
        "unlabelled": [
            lone("test-volume-2", "Test-Data/test-volume-2.nii"),
            lone("volume-53", "Training Batch 2/volume-53.nii"),
        ],
    },
    "msd": {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "training": [
            pair(name, f"imagesTr/{name}.nii.gz", f"labelsTr/{name}.nii.gz") for name in ("BRATS_001", "BRATS_010")
        ],
        "unlabelled": [lone("BRATS_485", "imagesTs/BRATS_485.nii.gz")],
    },
    "isles2022": {
        "modality": {"0": "DWI", "1": "ADC", "2": "FLAIR"},
        "labels": {"0": "background", "1": "infarct"},
        "training": [isles(1), isles(2)],
    },
    "mrbrains2013": {
        "modality": {"0": "T1", "1": "T1-IR", "2": "T2-FLAIR"},
        "labels": {"0": "background", "1": "cerebrospinal fluid", "2": "gray matter", "3": "white matter"},
        "training": [pair("Training-1", mrbrains("TrainingData"), "TrainingData/1/LabelsForTesting.nii")],
        "unlabelled": [lone("Test-1", mrbrains("TestData"))],
    },
    "adni": {
        "modality": {"0": "T1"},
        "remarks": [
            "1 image(s) without a row in T1_3_20_2015.csv are unlabelled",
            "1 image(s) without a diagnosis are unlabelled",
            "1 row(s) of T1_3_20_2015.csv without an image are passed over",
        ],
        "training": [
            adni("002_S_0295", "2006-04-18_08_20_30.0", "I45107", 45107, {"diagnosis": "CN", "age": "85", "sex": "M"}),
            adni("002_S_0295", "2007-05-25_07_11_54.0", "S13408", 45108, {"diagnosis": "MCI", "age": "86", "sex": "M"}),
            adni("002_S_0413", "2006-05-02_12_31_52.0", "I40966", 40966, {"diagnosis": "AD", "sex": "F"}),
        ],
        "unlabelled": [
            adni("002_S_0295", "2008-05-25_07_11_54.0", "I99999", 99999),
            adni("002_S_0413", "2006-11-02_12_31_52.0", "I50000", 50000),
        ],
    },
    "abide": {
        "modality": {"0": "T1"},
        "remarks": [
            "1 image(s) without a diagnosis are unlabelled",
            "1 row(s) of Phenotypic_V1_0b_preprocessed1.csv without an image are passed over",
        ],
        "training": [
            *(
                lone(
                    f"0050952-session_{number}-anat_1-mprage",
                    f"RawData/NYU/0050952/session_{number}/anat_1/mprage.nii.gz",
                    "50952",
                    {"diagnosis": "control", "age": "22.7", "sex": "F"},
                )
                for number in (1, 2)
            ),
            lone(
                "Pitt_0050003_anat",
                "Pitt/Pitt_0050003_anat.nii.gz",
                "50003",
                {"diagnosis": "autism", "age": "24.45", "sex": "M"},
            ),
            lone(
                "sub-0051456_T1w",
                "Caltech/sub-0051456/anat/sub-0051456_T1w.nii.gz",
                "51456",
                {"diagnosis": "autism", "sex": "M"},
            ),
        ],
        "unlabelled": [lone("Pitt_0050004_anat", "Pitt/Pitt_0050004_anat.nii.gz", "50004")],
    },
}


def raw(tmp_path, layout):
    """A miniature download of a layout; the Decathlon's folders tell by their name which task they are."""
    folder = tmp_path / ("Task01_BrainTumour" if layout == "msd" else "download")
    MAKERS[layout](folder)
    return folder


def content(folder):
    return json.loads((folder / "dataset.json").read_text())


def refusal(layout, folder):
    """The one sentence that a conversion is refused with; the folder is left as it was."""
    before = state(folder)
    with pytest.raises(DataError) as caught:
        convert(layout, folder)
    assert state(folder) == before
    assert not (folder / "dataset.json").exists()
    text = str(caught.value)
    assert text.startswith(str(folder))
    assert "\n" not in text
    return text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_download_is_described_exactly(tmp_path, layout):
    folder = raw(tmp_path, layout)
    assert convert(layout, folder) == folder / "dataset.json"
    told = content(folder)
    assert told.pop("converted_by") == f"mimzoo data convert {layout}"
    assert all(told.pop(key) for key in ("name", "reference", "licence"))
    assert told == EXPECTED[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_else_in_the_folder_changes(tmp_path, layout):
    folder = raw(tmp_path, layout)
    before = state(folder)
    convert(layout, folder)
    assert state(folder) == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_converting_again_gives_the_same_bytes(tmp_path, layout):
    folder = raw(tmp_path, layout)
    first = convert(layout, folder).read_bytes()
    assert convert(layout, folder).read_bytes() == first


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_scan_and_label_map_of_a_converted_download_can_be_read(tmp_path, layout):
    folder = raw(tmp_path, layout)
    convert(layout, folder)
    dataset = read_dataset(folder)
    assert dataset.training
    for case in (case for split in SPLITS for case in getattr(dataset, split)):
        volume = read_scan(case.images, len(dataset.channels))
        if case.label is not None:
            labels = read_labels(case.label, dataset.labels, dataset.values)
            check_pair(volume, labels)
            assert np.unique(labels.voxels).tolist() == [0, *dataset.labels]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_check_of_a_converted_download_finds_nothing(tmp_path, layout):
    folder = raw(tmp_path, layout)
    convert(layout, folder)
    assert not check_dataset(folder).problems


@pytest.mark.parametrize("layout", ["brats-met-2023", "brats-ped-2023", "adni", "abide"])
def test_scans_of_one_subject_stay_in_one_part(tmp_path, layout):
    folder = raw(tmp_path, layout)
    convert(layout, folder)
    for seed in range(5):
        dataset = read_dataset(folder, seed)
        assert not {case.subject for case in dataset.training} & {case.subject for case in dataset.validation}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_something_else_is_refused_with_an_example_of_what_was_looked_for(tmp_path, layout):
    folder = tmp_path / "download"
    scan(folder / "scan.nii.gz")
    table(folder / "rows.csv", [*ADNI_COLUMNS, *ABIDE_COLUMNS])
    text = refusal(layout, folder)
    assert "no file such as" in text
    assert ".nii" in text


def test_an_unknown_layout_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown layout 'brats-2021'; did you mean 'brats2021'?"):
        convert("brats-2021", tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder; give"):
        convert("btcv", tmp_path / "nowhere")


def test_the_other_folders_that_btcv_comes_in_are_known(tmp_path):
    for number in (1, 36):
        scan(tmp_path / f"imagesTr/img{number:04d}.nii.gz")
        mask(tmp_path / f"labelsTr/label{number:04d}.nii.gz", [1])
    scan(tmp_path / "imagesTs/img0080.nii.gz")
    convert("btcv", tmp_path)
    assert {split: [case["id"] for case in content(tmp_path)[split]] for split in SPLITS} == {
        "training": ["img0001"],
        "validation": ["img0036"],
        "unlabelled": ["img0080"],
    }


def test_a_part_of_btcv_without_its_validation_cases_is_left_for_the_reader_to_split(tmp_path):
    for number in (1, 2):
        scan(tmp_path / f"img{number:04d}.nii.gz")
        mask(tmp_path / f"label{number:04d}.nii.gz", [1])
    convert("btcv", tmp_path)
    assert "validation" not in content(tmp_path)
    assert len(read_dataset(tmp_path).validation) == 1


def test_rawdata_and_a_flat_visit_of_isles_are_known(tmp_path):
    visit = tmp_path / "rawdata/sub-strokecase0009/ses-0001"
    for sequence in ("dwi", "adc", "flair"):
        scan(visit / f"sub-strokecase0009_ses-0001_{sequence}.nii.gz")
    mask(tmp_path / "derivatives/sub-strokecase0009/ses-0001/sub-strokecase0009_ses-0001_msk.nii.gz", [1])
    convert("isles2022", tmp_path)
    (case,) = content(tmp_path)["training"]
    assert [path.rsplit("_", 1)[1] for path in case["image"]] == ["dwi.nii.gz", "adc.nii.gz", "flair.nii.gz"]
    assert case["subject"] == "sub-strokecase0009"


@pytest.mark.parametrize(
    ("layout", "path", "modality"),
    [
        ("brats2021", "TrainingData/BraTS2021_00002/BraTS2021_00002_t1ce.nii.gz", "T1ce"),
        ("brats-met-2023", "BraTS-MET-00002-001/BraTS-MET-00002-001-t2f.nii.gz", "FLAIR"),
        ("isles2022", "sub-strokecase0002/ses-0001/dwi/sub-strokecase0002_ses-0001_adc.nii.gz", "ADC"),
        ("mrbrains2013", "TrainingData/1/T1_IR.nii", "T1-IR"),
    ],
)
def test_a_case_without_one_modality_is_named_with_it(tmp_path, layout, path, modality):
    folder = raw(tmp_path, layout)
    (folder / path).unlink()
    case = {"mrbrains2013": "Training-1"}.get(layout) or path.rsplit("/", 1)[1].replace("-t2f", "_").rsplit("_", 1)[0]
    assert f"case {case!r} has no {modality}; restore" in refusal(layout, folder)


def test_other_incomplete_cases_are_counted_and_listed(tmp_path):
    folder = raw(tmp_path, "brats2021")
    for path in folder.rglob("*_t2.nii.gz"):
        path.unlink()
    text = refusal("brats2021", folder)
    assert "case 'BraTS2021_00000' has no T2 (2 more cases are incomplete: BraTS2021_00001, BraTS2021_00002)" in text


@pytest.mark.parametrize(
    ("layout", "path", "label"),
    [
        ("btcv", "RawData/Training/img/img0035.nii.gz", "RawData/Training/label/label0035.nii.gz"),
        ("mm-whs-mr", "mr_train/mr_train_1010_image.nii.gz", "mr_train/mr_train_1010_label.nii.gz"),
        ("lits", "Training Batch 2/volume-53.nii", "Training Batch 2/segmentation-53.nii"),
        ("msd", "imagesTr/BRATS_010.nii.gz", "labelsTr/BRATS_010.nii.gz"),
    ],
)
def test_a_label_without_an_image_is_named(tmp_path, layout, path, label):
    folder = raw(tmp_path, layout)
    (folder / path).unlink()
    assert f"the label {label} has no image" in refusal(layout, folder)


def test_a_download_unpacked_twice_is_refused_with_both_files(tmp_path):
    folder = raw(tmp_path, "lits")
    scan(folder / "copy/volume-2.nii.gz")
    assert "Training Batch 1/volume-2.nii and copy/volume-2.nii.gz are both the CT of one case" in refusal(
        "lits", folder
    )


def test_cases_come_in_the_order_of_their_numbers(tmp_path):
    for number in (100, 9, 10, 2):
        scan(tmp_path / f"volume-{number}.nii")
        mask(tmp_path / f"segmentation-{number}.nii", [1])
    convert("lits", tmp_path)
    ids = [case["id"] for case in content(tmp_path)["training"]]
    assert ids == ["volume-2", "volume-9", "volume-10", "volume-100"]


def test_a_damaged_segmentation_is_left_for_the_reader_to_refuse(tmp_path):
    folder = raw(tmp_path, "lits")
    (folder / "Training Batch 1/segmentation-2.nii").write_bytes(b"not a scan")
    convert("lits", folder)
    assert [case["id"] for case in content(folder)["training"]] == ["volume-2", "volume-10"]


# --- the Decathlon ----------------------------------------------------------------------------------------------------


def test_the_official_dataset_json_is_checked_and_left_as_it_is(tmp_path):
    folder = make_dataset(tmp_path / "Task04_Hippocampus", training=2, unlabelled=0)
    before = (folder / "dataset.json").read_bytes()
    path = convert("msd", folder)
    assert path.read_bytes() == before
    assert describe(path) == f"{path}: left as it is: 2 training, 1 validation; labels Left, Right"


def test_an_official_dataset_json_that_names_a_missing_file_is_refused(tmp_path):
    folder = make_dataset(tmp_path / "Task04_Hippocampus")
    (folder / "labels/case_001.nii.gz").unlink()
    with pytest.raises(DataError, match="the label of case 'case_001' is missing"):
        convert("msd", folder)


def test_a_task_without_dataset_json_needs_the_name_of_its_folder(tmp_path):
    make_msd(tmp_path / "brains")
    text = refusal("msd", tmp_path / "brains")
    assert "'brains' does not tell which task this is" in text
    assert "Task09_Spleen" in text


def test_a_single_channel_task_is_known_by_its_number(tmp_path):
    folder = tmp_path / "task09_spleen"
    scan(folder / "imagesTr/spleen_10.nii.gz")
    mask(folder / "labelsTr/spleen_10.nii.gz", [1])
    convert("msd", folder)
    told = content(folder)
    assert (told["name"], told["modality"], told["labels"]) == (
        "MSD Task09_Spleen",
        {"0": "CT"},
        {"0": "background", "1": "spleen"},
    )


# --- dataset.json of others -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ['{"training": []}', "not JSON", '["converted_by"]', '{"converted_by": "someone"}'])
def test_a_dataset_json_of_somebody_else_is_never_overwritten(tmp_path, text):
    folder = raw(tmp_path, "btcv")
    (folder / "dataset.json").write_text(text)
    with pytest.raises(DataError, match="was not written by mimzoo data convert and is left alone"):
        convert("btcv", folder)
    assert (folder / "dataset.json").read_text() == text


def test_a_dataset_json_of_an_earlier_conversion_is_replaced(tmp_path):
    folder = raw(tmp_path, "lits")
    convert("lits", folder)
    scan(folder / "Training Batch 2/volume-60.nii")
    mask(folder / "Training Batch 2/segmentation-60.nii", [1])
    convert("lits", folder)
    assert [case["id"] for case in content(folder)["training"]] == ["volume-2", "volume-10", "volume-60"]


# --- CSV files --------------------------------------------------------------------------------------------------------


def test_the_columns_of_the_advanced_search_of_adni_are_known(tmp_path):
    folder = raw(tmp_path, "adni")
    (folder / "T1_3_20_2015.csv").unlink()
    columns = ("Subject ID", "Research Group", "Sex", "Age", "Image ID")
    table(folder / "idaSearch.csv", columns, ("002_S_0295", "CN", "M", "85.9", "45107"), ("002_S_0413", "", "", "", ""))
    convert("adni", folder)
    (case,) = content(folder)["training"]
    assert (case["id"], case["targets"]) == ("002_S_0295_I45107", {"diagnosis": "CN", "age": "85.9", "sex": "M"})


def test_an_image_id_of_another_subject_is_not_taken_for_a_row(tmp_path):
    folder = raw(tmp_path, "adni")
    swapped = [(row[0], "002_S_0413" if row[0] == "I45107" else row[1], *row[2:]) for row in ADNI_ROWS]
    table(folder / "T1_3_20_2015.csv", ADNI_COLUMNS, *swapped)
    convert("adni", folder)
    assert "002_S_0295_I45107" in [case["id"] for case in content(folder)["unlabelled"]]


@pytest.mark.parametrize("layout", ["adni", "abide"])
def test_images_without_a_csv_file_are_refused_with_where_it_comes_from(tmp_path, layout):
    folder = raw(tmp_path, layout)
    next(folder.glob("*.csv")).unlink()
    assert "but has none (CSV files: none); put the" in refusal(layout, folder)


def test_two_csv_files_are_refused_with_their_names(tmp_path):
    folder = raw(tmp_path, "adni")
    table(folder / "more.csv", ADNI_COLUMNS, *ADNI_ROWS)
    assert "but has 2 (CSV files: T1_3_20_2015.csv, more.csv)" in refusal("adni", folder)


def test_a_csv_file_of_something_else_beside_it_is_passed_over(tmp_path):
    folder = raw(tmp_path, "adni")
    table(folder / "a_dictionary.csv", ("FLDNAME", "TEXT"), ("AGE", "Age at scan"))
    (folder / "empty.csv").write_text("")
    convert("adni", folder)
    assert len(content(folder)["training"]) == 3


@pytest.mark.parametrize(
    ("layout", "column", "named"),
    [("adni", "Group", "'Group' or 'Research Group'"), ("adni", "Age", "'Age'"), ("abide", "DX_GROUP", "'DX_GROUP'")],
)
def test_a_csv_file_that_lacks_a_column_is_refused_with_those_it_has(tmp_path, layout, column, named):
    folder = raw(tmp_path, layout)
    path = next(folder.glob("*.csv"))
    path.write_text(path.read_text().replace(f'"{column}"', '"Other"', 1))
    text = refusal(layout, folder)
    assert f"{path}: has no column {named} (it has " in text
    assert "Other" in text


@pytest.mark.parametrize(
    ("layout", "rows", "subject"),
    [
        ("adni", (ADNI_COLUMNS, *ADNI_ROWS[:2]), "002_S_0413"),
        ("abide", (ABIDE_COLUMNS, *(row for row in ABIDE_ROWS if row[1] != "50952")), "50952"),
    ],
)
def test_the_csv_file_of_another_download_is_refused_with_the_subject_it_does_not_list(tmp_path, layout, rows, subject):
    folder = raw(tmp_path, layout)
    table(next(folder.glob("*.csv")), *rows)
    assert f"does not list subject {subject!r}, of whom there are images" in refusal(layout, folder)


def test_an_unknown_code_of_abide_is_refused_with_the_known_ones(tmp_path):
    folder = raw(tmp_path, "abide")
    rows = [tuple("3" if (row[1], n) == ("50952", 3) else c for n, c in enumerate(row)) for row in ABIDE_ROWS]
    table(next(folder.glob("*.csv")), ABIDE_COLUMNS, *rows)
    assert "subject '50952' has the DX_GROUP '3'; known are 1 for autism, 2 for control" in refusal("abide", folder)


# --- the command ------------------------------------------------------------------------------------------------------


def run(*words):
    app = typer.Typer()
    app.add_typer(data_app, name="data")
    return CliRunner().invoke(app, ["data", "convert", *map(str, words)])


def test_the_command_prints_where_and_what(tmp_path):
    folder = raw(tmp_path, "lits")
    lines = run("lits", folder).stdout.splitlines()
    assert lines[0] == f"{folder / 'dataset.json'}: 2 training, 2 unlabelled; labels liver, tumor"
    assert lines[1:] == EXPECTED["lits"]["remarks"]


def test_the_command_tells_the_targets_of_a_table(tmp_path):
    folder = raw(tmp_path, "abide")
    line = run("abide", folder).stdout.splitlines()[0]
    assert line == f"{folder / 'dataset.json'}: 4 training, 1 unlabelled; targets age, diagnosis, sex"


def test_the_command_without_arguments_lists_the_layouts():
    lines = run().stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(LAYOUTS)


def test_the_command_asks_for_a_folder():
    assert isinstance(run("btcv").exception, DataError)
    assert "mimzoo data convert btcv DIR" in str(run("btcv").exception)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_page_on_benchmarks_tells_how_to_convert_each(layout):
    page = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text()
    assert f"    mimzoo data convert {layout} " in page
