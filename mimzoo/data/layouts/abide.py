"""ABIDE: brain MR of people with autism and of others, from many sites.

Source: Di Martino et al. 2014, doi 10.1038/mp.2013.78, the legend of its phenotypic file, and
http://preprocessed-connectomes-project.org/abide. Images are known by SUB_ID, zeros before it or not: as a folder
(NYU/0050952/.../mprage.nii.gz), as BIDS (sub-0050952/anat/sub-0050952_T1w.nii.gz) or, with the site, by
FILE_ID (Pitt_0050003_anat.nii.gz). Functional and diffusion scans beside them are passed over.
"""

import re
from pathlib import Path

from mimzoo.data.layouts.files import Naming, gather
from mimzoo.data.layouts.rows import Rows, read_rows, refuse_unknown
from mimzoo.data.layouts.table import Benchmark, Entry, Table
from mimzoo.errors import DataError

ABIDE = Benchmark(
    name="ABIDE",
    modality=("T1",),
    licence="non-commercial research (1000 Functional Connectomes Project)",
    reference="Di Martino et al. 2014, doi 10.1038/mp.2013.78",
)
NUMBER = r"(?<!\d)0*(?P<subject>[1-9]\d{4})(?!\d)"
# A word of a file or a folder, which ends where no letter goes on: rest_1, func, sub-0050952_task-rest_bold.
FUNCTIONAL = r"(?:.*[/_-])?(?:rest|func|bold|sbref|dti|dwi|fmap)(?![a-z])"
NAMING = Naming(
    pattern=rf"(?!{FUNCTIONAL})(?P<id>[^/]*?{NUMBER}.*)",
    roles={"": "T1"},
    example="0050952/anat_1/mprage.nii.gz",
)
COLUMNS = {"subject": ("SUB_ID",), "diagnosis": ("DX_GROUP",), "age": ("AGE_AT_SCAN",), "sex": ("SEX",)}
CODES = {"diagnosis": {"1": "autism", "2": "control"}, "sex": {"1": "M", "2": "F"}}
MISSING = ("", "-9999")
WHERE = "put the phenotypic CSV file of the release into the folder"


def read_abide(folder: Path) -> Table:
    """Return the table of a download: a case for each anatomical image, with diagnosis, age (years) and sex.

    Rows without an image are passed over; an image whose row has no diagnosis is unlabelled.
    Raises DataError when the subject of an image is nowhere in the CSV file, and for an unknown code in it.
    """
    found = read_rows(folder, COLUMNS, WHERE)
    table = Rows(found.path, tuple({**row, "subject": row["subject"].lstrip("0")} for row in found.rows))
    images = {name: files["T1"] for name, files in gather(folder, NAMING).items()}
    subjects = {name: _subject(name) for name in images}
    refuse_unknown(table, subjects.values())
    targets = {row["subject"]: _targets(table.path, row) for row in table.rows}
    entries = tuple(
        Entry(name, subjects[name], (path,), targets=targets[subjects[name]]) for name, path in images.items()
    )
    counts = {
        "image(s) without a diagnosis are unlabelled": sum(not entry.targets for entry in entries),
        f"row(s) of {table.path.name} without an image are passed over": len(targets.keys() - set(subjects.values())),
    }
    return Table(ABIDE, entries, remarks=tuple(f"{count} {what}" for what, count in counts.items() if count))


def _subject(case: str) -> str:
    match = re.search(NUMBER, case)
    return match["subject"] if match else case


def _targets(path: Path, row: dict[str, str]) -> dict[str, str]:
    """Return what a row tells, missing values left out; nothing without a diagnosis."""
    told = {name: _decoded(path, row, name) for name in COLUMNS if name != "subject" and row[name] not in MISSING}
    return told if "diagnosis" in told else {}


def _decoded(path: Path, row: dict[str, str], name: str) -> str:
    codes = CODES.get(name)
    if codes is None:
        return row[name]
    if row[name] not in codes:
        known = ", ".join(f"{code} for {meaning}" for code, meaning in codes.items())
        raise DataError(
            f"{path}: subject {row['subject']!r} has the {COLUMNS[name][0]} {row[name]!r}; known are {known}, and "
            f"-9999 or nothing where that is missing"
        )
    return codes[row[name]]
