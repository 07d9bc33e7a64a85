"""Miniature downloads of public benchmarks, laid out as their organisers do, with the traps that these hold."""

import csv
import hashlib
import zlib

import numpy as np
from scans import save

SHAPE = (6, 7, 5)
ORGANS = 13


def scan(path, shape=SHAPE, spacing=(1.0, 1.0, 2.0)):
    """Write noise, another for each name."""
    seed = zlib.crc32("/".join(path.parts[-4:]).encode())
    return save(path, np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32), spacing)


def mask(path, values, shape=SHAPE, spacing=(1.0, 1.0, 2.0), dtype=np.int16):
    """Write a label map that holds 0 and each of the values."""
    voxels = np.zeros(shape, dtype)
    voxels.flat[1 : 1 + len(values)] = values
    return save(path, voxels, spacing)


def clutter(folder, *paths):
    """Write what macOS leaves beside these files, and a readme."""
    for path in paths:
        (folder / path).with_name(f"._{path.rsplit('/', 1)[-1]}").write_bytes(b"\0\5\26\7 not a scan")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "README.txt").write_text("Please cite us.")


def table(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows(rows)
    return path


def state(folder):
    """Every file but dataset.json with its hash and time."""
    return {
        path.relative_to(folder).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / "dataset.json"
    }


def make_btcv(folder):
    """RawData with cases of both parts of the split, a test scan, and registered pairs beside them."""
    for number in (1, 35, 40):
        scan(folder / f"RawData/Training/img/img{number:04d}.nii.gz")
        mask(folder / f"RawData/Training/label/label{number:04d}.nii.gz", range(1, 1 + ORGANS))
    scan(folder / "RawData/Testing/img/img0061.nii.gz")
    scan(folder / "Reg-Training-Training/0001/img0001-0035.nii.gz")
    mask(folder / "Reg-Training-Training/0001/label0001-0035.nii.gz", [1])
    clutter(folder, "RawData/Training/img/img0001.nii.gz", "RawData/Training/label/label0001.nii.gz")


def make_brats_2021(folder):
    """Two patients with labels 1, 2 and 4, and one of the validation set without."""
    for number, part in ((0, "TrainingData"), (2, "TrainingData"), (1, "ValidationData")):
        name = f"BraTS2021_{number:05d}"
        for sequence in ("flair", "t1", "t1ce", "t2"):
            scan(folder / part / name / f"{name}_{sequence}.nii.gz")
        if part == "TrainingData":
            mask(folder / part / name / f"{name}_seg.nii.gz", [1, 2, 4], dtype=np.uint8)
    clutter(folder, "TrainingData/BraTS2021_00000/BraTS2021_00000_flair.nii.gz")


def make_brats_2023(folder, name="BraTS-MET"):
    """A patient at two times, and another without labels."""
    for case in ("00002-000", "00002-001", "00010-000"):
        stem = folder / f"{name}-{case}" / f"{name}-{case}"
        for sequence in ("t1c", "t1n", "t2f", "t2w"):
            scan(stem.with_name(f"{stem.name}-{sequence}.nii.gz"))
        if case.startswith("00002"):
            mask(stem.with_name(f"{stem.name}-seg.nii.gz"), [1, 2, 3], dtype=np.uint8)
    clutter(folder, f"{name}-00002-000/{name}-00002-000-seg.nii.gz")


def make_brats_ped_2023(folder):
    make_brats_2023(folder, "BraTS-PED")


def make_mmwhs(folder):
    """CT and MR in one folder, the stray value 421 in MR, and a test scan with its encrypted label."""
    values = [205, 420, 500, 550, 600, 820, 850]
    for kind, stray in (("ct", []), ("mr", [421])):
        for number in (1001, 1010):
            scan(folder / f"{kind}_train/{kind}_train_{number}_image.nii.gz")
            mask(folder / f"{kind}_train/{kind}_train_{number}_label.nii.gz", [*values, *stray])
        scan(folder / f"{kind}_test/{kind}_test_2001_image.nii.gz")
        mask(folder / f"{kind}_test/{kind}_test_2001_label_encrypt_1mm.nii.gz", [7])
    clutter(folder, "ct_train/ct_train_1001_image.nii.gz", "mr_train/mr_train_1001_label.nii.gz")


def make_lits(folder):
    """Volumes 2, 10 and 53 over two batches, the last with a segmentation under an identity affine; a test volume."""
    for number, batch in ((2, 1), (10, 1), (53, 2)):
        scan(folder / f"Training Batch {batch}/volume-{number}.nii")
        spacing = (1.0, 1.0, 1.0) if number == 53 else (1.0, 1.0, 2.0)
        mask(folder / f"Training Batch {batch}/segmentation-{number}.nii", [1, 2], spacing=spacing)
    scan(folder / "Test-Data/test-volume-2.nii")
    clutter(folder, "Training Batch 1/volume-2.nii")


def make_msd(folder):
    """The brain tumours without their dataset.json: 4D scans, one for testing."""
    for part, name in (("Tr", "BRATS_001"), ("Tr", "BRATS_010"), ("Ts", "BRATS_485")):
        scan(folder / f"images{part}/{name}.nii.gz", shape=(*SHAPE, 4))
        if part == "Tr":
            mask(folder / f"labelsTr/{name}.nii.gz", [1, 2, 3], dtype=np.uint8)
    clutter(folder, "imagesTr/BRATS_001.nii.gz", "labelsTr/BRATS_001.nii.gz", "imagesTs/BRATS_485.nii.gz")


def make_isles(folder):
    """BIDS with FLAIR on a grid of its own and written in capitals, masks below derivatives/."""
    for number in (1, 2):
        name = f"sub-strokecase{number:04d}_ses-0001"
        visit = f"sub-strokecase{number:04d}/ses-0001"
        for sequence in ("dwi", "adc"):
            scan(folder / visit / "dwi" / f"{name}_{sequence}.nii.gz")
        scan(folder / visit / "anat" / f"{name}_FLAIR.nii.gz", (12, 14, 4), (0.5, 0.5, 2.5))
        mask(folder / "derivatives" / visit / f"{name}_msk.nii.gz", [1], dtype=np.uint8)
    clutter(folder, "derivatives/sub-strokecase0001/ses-0001/sub-strokecase0001_ses-0001_msk.nii.gz")


def make_mrbrains(folder):
    """Patient 1 of both parts, with T1 on a finer grid and the eight structures beside what is wanted."""
    for part in ("TrainingData", "TestData"):
        for sequence in ("T1", "T1_IR", "T2_FLAIR"):
            scan(folder / part / "1" / f"{sequence}.nii")
        scan(folder / part / "1" / "T1_1mm.nii", shape=(6, 7, 10), spacing=(1.0, 1.0, 1.0))
    mask(folder / "TrainingData/1/LabelsForTesting.nii", [1, 2, 3], dtype=np.uint8)
    mask(folder / "TrainingData/1/LabelsForTraining.nii", range(1, 9), dtype=np.uint8)
    clutter(folder, "TrainingData/1/T1.nii")


ADNI_COLUMNS = ("Image Data ID", "Subject", "Group", "Sex", "Age", "Visit", "Modality", "Description", "Downloaded")
ADNI_ROWS = (
    ("I45107", "002_S_0295", "CN", "M", "85", "bl", "MRI", "MP-RAGE", "3/20/2015"),
    ("I45108", "002_S_0295", "MCI", "M", "86", "m12", "MRI", "MP-RAGE", "3/20/2015"),
    ("40966", "002_S_0413", "AD", "F", "", "bl", "MRI", "MP-RAGE", "3/20/2015"),
    ("I50000", "002_S_0413", "", "F", "77", "m06", "MRI", "MP-RAGE", "3/20/2015"),
    ("I77777", "010_S_9999", "CN", "F", "70", "bl", "MRI", "MP-RAGE", ""),
)


def make_adni(folder):
    """Two visits with different diagnoses, an image without a row, a row without an image, an empty diagnosis."""
    for subject, date, place, image in (
        ("002_S_0295", "2006-04-18_08_20_30.0", "I45107", 45107),
        ("002_S_0295", "2007-05-25_07_11_54.0", "S13408", 45108),
        ("002_S_0295", "2008-05-25_07_11_54.0", "I99999", 99999),
        ("002_S_0413", "2006-05-02_12_31_52.0", "I40966", 40966),
        ("002_S_0413", "2006-11-02_12_31_52.0", "I50000", 50000),
    ):
        name = f"ADNI_{subject}_MR_MP-RAGE_Br_20070319113623975_S13408_I{image}.nii"
        scan(folder / "ADNI" / subject / "MP-RAGE" / date / place / name)
    table(folder / "T1_3_20_2015.csv", ADNI_COLUMNS, *ADNI_ROWS)
    clutter(folder)


ABIDE_COLUMNS = ("SITE_ID", "SUB_ID", "FILE_ID", "DX_GROUP", "AGE_AT_SCAN ", "SEX")
ABIDE_ROWS = (
    ("PITT", "50003", "Pitt_0050003", "1", "24.45", "1"),
    ("NYU", "50952", "NYU_0050952", "2", "22.7", "2"),
    ("CALTECH", "51456", "no_filename", "1", "-9999", "1"),
    ("PITT", "50004", "Pitt_0050004", "-9999", "19.09", "1"),
    ("PITT", "50005", "Pitt_0050005", "2", "13.73", "2"),
)


def make_abide(folder):
    """Images as the three releases name them, one subject twice, functional scans beside them."""
    scan(folder / "Pitt/Pitt_0050003_anat.nii.gz")
    scan(folder / "RawData/NYU/0050952/session_1/anat_1/mprage.nii.gz")
    scan(folder / "RawData/NYU/0050952/session_2/anat_1/mprage.nii.gz")
    scan(folder / "Caltech/sub-0051456/anat/sub-0051456_T1w.nii.gz")
    scan(folder / "Pitt/Pitt_0050004_anat.nii.gz")
    for path in (
        "Pitt/Pitt_0050003_func_preproc.nii.gz",
        "RawData/NYU/0050952/session_1/rest_1/rest.nii.gz",
        "Caltech/sub-0051456/func/sub-0051456_task-rest_run-1_bold.nii.gz",
    ):
        scan(folder / path, shape=(*SHAPE, 3))
    scan(folder / "templates/MNI152_T1_1mm.nii.gz")
    table(folder / "Phenotypic_V1_0b_preprocessed1.csv", ABIDE_COLUMNS, *ABIDE_ROWS)
    clutter(folder, "Pitt/Pitt_0050003_anat.nii.gz")


MAKERS = {
    "btcv": make_btcv,
    "brats2021": make_brats_2021,
    "brats-met-2023": make_brats_2023,
    "brats-ped-2023": make_brats_ped_2023,
    "mm-whs-ct": make_mmwhs,
    "mm-whs-mr": make_mmwhs,
    "lits": make_lits,
    "msd": make_msd,
    "isles2022": make_isles,
    "mrbrains2013": make_mrbrains,
    "adni": make_adni,
    "abide": make_abide,
}
