"""Medical Segmentation Decathlon: ten tasks, each a folder with a dataset.json of its own.

Source: Antonelli et al. 2022, doi 10.1038/s41467-022-30695-9, http://medicaldecathlon.com. Channels and labels are
those of the official dataset.json files. A file of several channels is 4D, its channels last.
"""

import re
from pathlib import Path

from mimzoo.data.datasets import read_dataset
from mimzoo.data.layouts.files import LABEL, Naming, complete, gather
from mimzoo.data.layouts.table import Benchmark, Table, is_foreign
from mimzoo.errors import DataError

CT = ("CT",)
MR = ("MRI",)
# Task -> its channels and its labels, in their order.
TASKS = {
    "Task01_BrainTumour": (("FLAIR", "T1w", "t1gd", "T2w"), ("edema", "non-enhancing tumor", "enhancing tumour")),
    "Task02_Heart": (MR, ("left atrium",)),
    "Task03_Liver": (CT, ("liver", "cancer")),
    "Task04_Hippocampus": (MR, ("Anterior", "Posterior")),
    "Task05_Prostate": (("T2", "ADC"), ("PZ", "TZ")),
    "Task06_Lung": (CT, ("cancer",)),
    "Task07_Pancreas": (CT, ("pancreas", "cancer")),
    "Task08_HepaticVessel": (CT, ("Vessel", "Tumour")),
    "Task09_Spleen": (CT, ("spleen",)),
    "Task10_Colon": (CT, ("colon cancer primaries",)),
}
IMAGE = "image"
NAMING = Naming(
    pattern=r"(?P<role>imagesTr|labelsTr|imagesTs)/(?P<id>[^/]+)",
    roles={"imagestr": IMAGE, "imagests": IMAGE, "labelstr": LABEL},
    example="imagesTr/spleen_10.nii.gz",
)


def read_msd(folder: Path) -> Table | None:
    """Return the table of imagesTr, labelsTr and imagesTs, or None where the official dataset.json is there and fits.

    Raises DataError where that one does not fit the files, and where none is there and the folder is no task.
    """
    if is_foreign(folder / "dataset.json"):
        read_dataset(folder)
        return None
    entries = complete(folder, gather(folder, NAMING), (IMAGE,))
    modality, labels = TASKS[_task(folder)]
    benchmark = Benchmark(
        name=f"MSD {_task(folder)}",
        modality=modality,
        labels=labels,
        licence="CC-BY-SA 4.0",
        reference="Antonelli et al. 2022, doi 10.1038/s41467-022-30695-9",
    )
    return Table(benchmark, entries)


def _task(folder: Path) -> str:
    """Return the task that a folder is called by: nothing within tells what the labels are."""
    name = folder.resolve().name
    number = re.match(r"Task(\d\d)", name, re.IGNORECASE)
    found = [task for task in TASKS if number and task.startswith(f"Task{number[1]}")]
    if not found:
        raise DataError(
            f"{folder}: {name!r} does not tell which task this is; restore its dataset.json, or call the folder as it "
            f"was in the download: {', '.join(TASKS)}"
        )
    return found[0]
