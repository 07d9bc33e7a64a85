"""MRBrainS13: fluid, grey and white matter in 3 T MR of 5 labelled and 15 other patients.

Source: Mendrik et al. 2015, doi 10.1155/2015/813696, https://doi.org/10.34894/645ZIN, and the Readme.txt within.
LabelsForTesting has the three tissues that are evaluated, and background in cerebellum and brainstem;
LabelsForTraining, with eight structures, is passed over, and so is T1_1mm, which lies on another grid than the labels.
"""

from pathlib import Path

from mimzoo.data.layouts.files import LABEL, Naming, complete, gather
from mimzoo.data.layouts.table import Benchmark, Table

MRBRAINS = Benchmark(
    name="MRBrainS13",
    modality=("T1", "T1-IR", "T2-FLAIR"),
    labels=("cerebrospinal fluid", "gray matter", "white matter"),
    licence="MRBrainS13 terms of participation",
    reference="Mendrik et al. 2015, doi 10.1155/2015/813696",
)
# Patients are numbered from 1 in both folders, but are not the same.
NAMING = Naming(
    pattern=r"(?P<part>Training|Test)Data/(?P<id>\d+)/(?P<role>T1|T1_IR|T2_FLAIR|LabelsForTesting)",
    roles={"t1": "T1", "t1_ir": "T1-IR", "t2_flair": "T2-FLAIR", "labelsfortesting": LABEL},
    example="TrainingData/1/T1.nii",
    case="{part}-{id}",
)


def read_mrbrains_2013(folder: Path) -> Table:
    """Return the table of TrainingData/ and TestData/."""
    return Table(MRBRAINS, complete(folder, gather(folder, NAMING), MRBRAINS.modality))
