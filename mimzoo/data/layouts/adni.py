"""ADNI: brain MR of elderly people at several visits, with a diagnosis at each.

Source: https://adni.loni.usc.edu. The archive gives images as ADNI/<subject>/<description>/<date>/<image id>/*.nii, or
with a series id for the last folder and the image id at the end of the file's name, and a CSV file of the collection.
"""

from pathlib import Path

from mimzoo.data.layouts.files import Naming, gather
from mimzoo.data.layouts.rows import read_rows, refuse_unknown
from mimzoo.data.layouts.table import Benchmark, Entry, Table

ADNI = Benchmark(
    name="ADNI",
    modality=("T1",),
    licence="ADNI Data Use Agreement",
    reference="Alzheimer's Disease Neuroimaging Initiative, https://adni.loni.usc.edu",
)
NAMING = Naming(
    pattern=r"(?P<subject>\d{3}_S_\d{4,5})/(?:.*/)?(?:I(?P<folder>\d+)/[^/]+|[^/]*_I(?P<file>\d+))",
    roles={"": "T1"},
    example="ADNI/002_S_0295/MP-RAGE/2006-04-18_08_20_30.0/I13722/ADNI_002_S_0295_MR_MP-RAGE_I13722.nii",
    case="{subject}_I{folder}{file}",
)
# What the collection's and the advanced search's CSV files call their columns.
COLUMNS = {
    "image": ("Image Data ID", "Image ID"),
    "subject": ("Subject", "Subject ID"),
    "diagnosis": ("Group", "Research Group"),
    "age": ("Age",),
    "sex": ("Sex",),
}
WHERE = "put the CSV file that the archive gives for the collection (Download, CSV) into the folder"
TARGETS = ("diagnosis", "age", "sex")


def read_adni(folder: Path) -> Table:
    """Return the table of a download: a case for each image, with diagnosis, age (years) and sex at that visit.

    An image without a row, or without a diagnosis in it, is unlabelled: diagnoses change, so none is taken from another
    visit. Rows without an image are passed over.
    Raises DataError when the subject of an image is nowhere in the CSV file.
    """
    table = read_rows(folder, COLUMNS, WHERE)
    images = {name: files["T1"] for name, files in gather(folder, NAMING).items()}
    refuse_unknown(table, map(_subject, images))
    rows = {f"{row['subject']}_I{row['image'].lstrip('I')}": row for row in table.rows}
    entries = tuple(
        Entry(name, _subject(name), (path,), targets=_targets(rows.get(name, {}))) for name, path in images.items()
    )
    counts = {
        f"image(s) without a row in {table.path.name} are unlabelled": len(images.keys() - rows.keys()),
        "image(s) without a diagnosis are unlabelled": sum(not e.targets and e.id in rows for e in entries),
        f"row(s) of {table.path.name} without an image are passed over": len(rows.keys() - images.keys()),
    }
    return Table(ADNI, entries, remarks=tuple(f"{count} {what}" for what, count in counts.items() if count))


def _subject(case: str) -> str:
    return case.rsplit("_", 1)[0]


def _targets(row: dict[str, str]) -> dict[str, str]:
    """Return what a row tells, empty cells left out; nothing without a diagnosis."""
    return {name: row[name] for name in TARGETS if row[name]} if row.get("diagnosis") else {}
