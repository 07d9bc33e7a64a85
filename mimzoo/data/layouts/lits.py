"""LiTS: liver and liver tumours in 131 labelled CT scans, 70 without labels.

Source: Bilic et al. 2023, arXiv 1901.04056, CodaLab competition 17094. Not all headers are to be believed. Volumes 28
to 47 claim voxels of 1 mm (github.com/PatrickChrist/LITS-CHALLENGE, #14), which nothing here can mend.
Scans are stored in different orientations, which their affines tell; but the affine of a segmentation can be another
than its volume's (github.com/MIC-DKFZ/nnUNet, #2751), so that only one of the two would be turned.
"""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
from nibabel.filebasedimages import ImageFileError

from mimzoo.data.layouts.files import LABEL, Naming, complete, gather
from mimzoo.data.layouts.table import Benchmark, Entry, Table
from mimzoo.volume import Grid, same_grid

LITS = Benchmark(
    name="LiTS",
    modality=("CT",),
    labels=("liver", "tumor"),
    licence="CC BY-NC-ND 4.0",
    reference="Bilic et al. 2023, arXiv 1901.04056",
)
NAMING = Naming(
    pattern=r"(?P<test>test-)?(?P<role>volume|segmentation)-(?P<id>\d+)",
    roles={"volume": "CT", "segmentation": LABEL},
    example="Training Batch 1/volume-0.nii",
    case="{test}volume-{id}",
)


def read_lits(folder: Path) -> Table:
    """Return the table of both training batches and the test volumes.

    A volume whose segmentation lies elsewhere by the headers is listed as unlabelled, with a remark.
    """
    entries = complete(folder, gather(folder, NAMING), LITS.modality)
    apart = [entry.id for entry in entries if _lies_apart(folder, entry)]
    told = tuple(replace(entry, label=None) if entry.id in apart else entry for entry in entries)
    remark = (
        f"unlabelled, since the segmentation's header puts it elsewhere than the volume: {', '.join(apart)}; look at "
        f"both, give the segmentation the volume's header where their voxels fit, and convert again"
    )
    return Table(LITS, told, remarks=(remark,) if apart else ())


def _lies_apart(folder: Path, entry: Entry) -> bool:
    """Return whether the headers of a volume and its segmentation differ in shape or place; damaged ones do not."""
    if entry.label is None:
        return False
    try:
        volume, segmentation = (_grid(folder / path) for path in (*entry.images, entry.label))
    except (OSError, ValueError, ImageFileError):
        return False  # whoever reads the voxels says what is wrong with the file
    return not same_grid(volume, segmentation)


def _grid(path: Path) -> Grid:
    image = nib.load(path)
    return Grid(image.shape[:3], image.affine)
