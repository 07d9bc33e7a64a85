"""BraTS: brain tumours in four MR sequences that lie on one grid.

Channels come in one order in all of them, FLAIR, T1, T1ce, T2, so that weights can go from one to another.
Source: Baid et al. 2021, arXiv 2107.02314 (adults); Moawad et al. 2023, arXiv 2306.00838 (metastases); Kazerooni et al.
2023, arXiv 2305.17033 (children). File names as on Synapse, syn25829067 and syn51156910.
"""

from pathlib import Path

from mimzoo.data.layouts.files import LABEL, Naming, complete, gather
from mimzoo.data.layouts.table import Benchmark, Table

MODALITY = ("FLAIR", "T1", "T1ce", "T2")
ROLES_2021 = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1ce", "t2": "T2", "seg": LABEL}
ROLES_2023 = {"t2f": "FLAIR", "t1n": "T1", "t1c": "T1ce", "t2w": "T2", "seg": LABEL}
TERMS_2023 = "BraTS 2023 terms of use"

ADULTS = Benchmark(
    name="BraTS 2021",
    modality=MODALITY,
    labels=("necrotic tumor core", "edema", "enhancing tumor"),
    values={1: 1, 2: 2, 4: 3},
    licence="BraTS 2021 terms of use",
    reference="Baid et al. 2021, arXiv 2107.02314",
)
METASTASES = Benchmark(
    name="BraTS-MET 2023",
    modality=MODALITY,
    labels=("non-enhancing tumor core", "surrounding FLAIR hyperintensity", "enhancing tumor"),
    licence=TERMS_2023,
    reference="Moawad et al. 2023, arXiv 2306.00838",
)
CHILDREN = Benchmark(
    name="BraTS-PED 2023",
    modality=MODALITY,
    labels=("non-enhancing component", "edema", "enhancing tumor"),
    licence=TERMS_2023,
    reference="Kazerooni et al. 2023, arXiv 2305.17033",
)


def read_brats_2021(folder: Path) -> Table:
    """Return the table of BraTS2021_00000/BraTS2021_00000_flair.nii.gz and its like, a case for each patient."""
    naming = Naming(
        pattern=r"(?P<id>BraTS2021_\d{5})_(?P<role>flair|t1|t1ce|t2|seg)",
        roles=ROLES_2021,
        example="BraTS2021_00000/BraTS2021_00000_flair.nii.gz",
    )
    return Table(ADULTS, complete(folder, gather(folder, naming), MODALITY))


def read_brats_met_2023(folder: Path) -> Table:
    """Return the table of BraTS-MET-00002-000/BraTS-MET-00002-000-t1c.nii.gz and its like."""
    return _read_2023(folder, METASTASES, "BraTS-MET-00002-000")


def read_brats_ped_2023(folder: Path) -> Table:
    """Return the table of BraTS-PED-00001-000/BraTS-PED-00001-000-t1c.nii.gz and its like."""
    return _read_2023(folder, CHILDREN, "BraTS-PED-00001-000")


def _read_2023(folder: Path, benchmark: Benchmark, case: str) -> Table:
    """Return the table of cases called as `case` is: the patient's number, then that of the time."""
    naming = Naming(
        pattern=rf"(?P<id>{case[:9]}-\d{{5}}-\d{{3}})-(?P<role>t1c|t1n|t2f|t2w|seg)",
        roles=ROLES_2023,
        example=f"{case}/{case}-t1c.nii.gz",
    )
    return Table(benchmark, complete(folder, gather(folder, naming), MODALITY, _patient))


def _patient(case: str) -> str:
    return case.rsplit("-", 1)[0]
