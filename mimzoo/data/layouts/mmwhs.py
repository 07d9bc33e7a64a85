"""MM-WHS 2017: seven parts of the heart in 20 labelled scans each of CT and MR, 40 each without labels.

Source: Zhuang et al. 2019, arXiv 1902.07880, and the organisers' page. Labels are stored as 205 to 850. The MR label
map of case 1010 has some voxels of 421, which belong to the left atrium (420) around them.
"""

from pathlib import Path

from mimzoo.data.layouts.files import LABEL, Naming, complete, gather
from mimzoo.data.layouts.table import Benchmark, Table

PARTS = {
    205: "left ventricular myocardium",
    420: "left atrium",
    500: "left ventricle",
    550: "right atrium",
    600: "right ventricle",
    820: "ascending aorta",
    850: "pulmonary artery",
}
VALUES = {stored: value for value, stored in enumerate(PARTS, 1)}
STRAY_VALUES = {421: VALUES[420]}


def read_mmwhs_ct(folder: Path) -> Table:
    """Return the table of ct_train/ct_train_1001_image.nii.gz, ct_train_1001_label.nii.gz and their like."""
    return _read(folder, "CT", VALUES)


def read_mmwhs_mr(folder: Path) -> Table:
    """Return the table of mr_train/mr_train_1001_image.nii.gz, mr_train_1001_label.nii.gz and their like."""
    return _read(folder, "MR", dict(sorted({**VALUES, **STRAY_VALUES}.items())))


def _read(folder: Path, modality: str, values: dict[int, int]) -> Table:
    prefix = modality.lower()
    # The encrypted labels of the test scans (ct_test_2001_label_encrypt_1mm.nii.gz) are not named so.
    naming = Naming(
        pattern=rf"(?P<id>{prefix}_(?:train|test)_\d{{4}})_(?P<role>image|label)",
        roles={"image": modality, "label": LABEL},
        example=f"{prefix}_train/{prefix}_train_1001_image.nii.gz",
    )
    benchmark = Benchmark(
        name=f"MM-WHS {modality}",
        modality=(modality,),
        labels=tuple(PARTS.values()),
        values=values,
        licence="MM-WHS 2017 terms of use",
        reference="Zhuang et al. 2019, arXiv 1902.07880",
    )
    return Table(benchmark, complete(folder, gather(folder, naming), benchmark.modality))
