"""BTCV: 30 abdominal CT scans with 13 organs, and 20 without.

Source: Landman et al. 2015, Multi-Atlas Labeling Beyond the Cranial Vault, Synapse syn3193805. The split into 24 and 6
is that of the `dataset_0.json` which MONAI's UNETR and Swin UNETR tutorials give out, and MIM-Med3D uses.
"""

from pathlib import Path

from mimzoo.data.layouts.files import LABEL, Naming, complete, gather
from mimzoo.data.layouts.table import Benchmark, Table

BTCV = Benchmark(
    name="BTCV",
    modality=("CT",),
    labels=(
        "spleen",
        "right kidney",
        "left kidney",
        "gallbladder",
        "esophagus",
        "liver",
        "stomach",
        "aorta",
        "inferior vena cava",
        "portal and splenic veins",
        "pancreas",
        "right adrenal gland",
        "left adrenal gland",
    ),
    licence="Synapse syn3193805 terms of use",
    reference="Landman et al. 2015, Multi-Atlas Labeling Beyond the Cranial Vault, Synapse syn3193805",
)
# The registered pairs (Reg-Training-Training/img0001-0002.nii.gz) of the same download have two numbers.
NAMING = Naming(
    pattern=r"(?P<role>img|label)(?P<id>\d{4})",
    roles={"img": "CT", "label": LABEL},
    example="RawData/Training/img/img0001.nii.gz",
    case="img{id}",
)
VALIDATION = frozenset(f"img{number:04d}" for number in range(35, 41))


def read_btcv(folder: Path) -> Table:
    """Return the table of RawData/Training and RawData/Testing, or of imagesTr, labelsTr and imagesTs."""
    return Table(BTCV, complete(folder, gather(folder, NAMING), BTCV.modality), VALIDATION)
