"""ISLES 2022: infarcts in DWI, ADC and FLAIR of 250 patients with acute or subacute stroke.

Source: Hernandez Petzsche et al. 2022, doi 10.1038/s41597-022-01875-5, Zenodo 7960856. FLAIR has a grid of its own;
masks are drawn on DWI, which therefore is the first channel: the others are resampled to its grid.
"""

from pathlib import Path

from mimzoo.data.layouts.files import LABEL, Naming, complete, gather
from mimzoo.data.layouts.table import Benchmark, Table

ISLES = Benchmark(
    name="ISLES 2022",
    modality=("DWI", "ADC", "FLAIR"),
    labels=("infarct",),
    licence="CC BY-SA 4.0",
    reference="Hernandez Petzsche et al. 2022, doi 10.1038/s41597-022-01875-5",
)
# Releases differ in folders (rawdata/ or none, dwi/ and anat/ or none) and in the case of FLAIR.
NAMING = Naming(
    pattern=r"(?P<id>sub-strokecase\d{4}_ses-\d{4})_(?P<role>dwi|adc|flair|msk)",
    roles={"dwi": "DWI", "adc": "ADC", "flair": "FLAIR", "msk": LABEL},
    example="sub-strokecase0001/ses-0001/dwi/sub-strokecase0001_ses-0001_dwi.nii.gz",
)


def read_isles_2022(folder: Path) -> Table:
    """Return the table of the BIDS folders and derivatives/, a case for each visit."""
    return Table(ISLES, complete(folder, gather(folder, NAMING), ISLES.modality, _patient))


def _patient(case: str) -> str:
    return case.split("_ses-")[0]
