"""Downloads of public benchmarks, as their organisers lay them out: adapters write a dataset.json beside the files.

Nothing is copied, moved or changed. An adapter reads names and headers, never voxels, and imports no torch.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mimzoo.data.cases import SPLITS
from mimzoo.data.layouts.abide import read_abide
from mimzoo.data.layouts.adni import read_adni
from mimzoo.data.layouts.brats import read_brats_2021, read_brats_met_2023, read_brats_ped_2023
from mimzoo.data.layouts.btcv import read_btcv
from mimzoo.data.layouts.isles import read_isles_2022
from mimzoo.data.layouts.lits import read_lits
from mimzoo.data.layouts.mmwhs import read_mmwhs_ct, read_mmwhs_mr
from mimzoo.data.layouts.mrbrains import read_mrbrains_2013
from mimzoo.data.layouts.msd import read_msd
from mimzoo.data.layouts.table import CONVERTER, Table, is_foreign, manifest, read_content
from mimzoo.errors import DataError, UnknownNameError, suggest
from mimzoo.files import replacing


@dataclass(frozen=True)
class Layout:
    """A download's layout: its name, one line on what it is, its source, and what reads it.

    `read` gives None where the folder has a dataset.json of the organisers that is to stay.
    """

    name: str
    summary: str
    source: str
    read: Callable[[Path], Table | None]


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("btcv", "Abdominal CT, 13 organs.", "Synapse syn3193805", read_btcv),
        Layout("brats2021", "Brain MR, glioma in adults.", "arXiv 2107.02314", read_brats_2021),
        Layout("brats-met-2023", "Brain MR, metastases.", "arXiv 2306.00838", read_brats_met_2023),
        Layout("brats-ped-2023", "Brain MR, glioma in children.", "arXiv 2305.17033", read_brats_ped_2023),
        Layout("mm-whs-ct", "Cardiac CT, 7 parts of the heart.", "arXiv 1902.07880", read_mmwhs_ct),
        Layout("mm-whs-mr", "Cardiac MR, 7 parts of the heart.", "arXiv 1902.07880", read_mmwhs_mr),
        Layout("lits", "Abdominal CT, liver and tumours.", "arXiv 1901.04056", read_lits),
        Layout("msd", "Any task of the Segmentation Decathlon.", "doi 10.1038/s41467-022-30695-9", read_msd),
        Layout("isles2022", "Brain MR, infarcts.", "doi 10.1038/s41597-022-01875-5", read_isles_2022),
        Layout("mrbrains2013", "Brain MR, three tissues.", "doi 10.1155/2015/813696", read_mrbrains_2013),
        Layout("adni", "Brain MR, Alzheimer's disease.", "https://adni.loni.usc.edu", read_adni),
        Layout("abide", "Brain MR, autism.", "doi 10.1038/mp.2013.78", read_abide),
    )
}


def convert(layout: str, folder: Path | str) -> Path:
    """Return the dataset.json of a raw download, written into its folder; no other file is touched.

    One that an earlier conversion wrote is replaced. The Decathlon's own is checked and left as it is.
    Raises UnknownNameError for an unknown layout; DataError for a folder that does not look like it, for cases that
    lack a file, for CSV files that do not fit the images, and for a dataset.json that is not of a conversion.
    """
    if layout not in LAYOUTS:
        raise UnknownNameError(f"unknown layout {layout!r}; {suggest(layout, LAYOUTS)}")
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        what = "a file, not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {what}; give the folder that holds the unpacked download")
    table = LAYOUTS[layout].read(folder)
    path = folder / "dataset.json"
    if table is not None:
        if is_foreign(path):
            raise DataError(f"{path}: was not written by {CONVERTER} and is left alone; move it away to convert anew")
        with replacing(path) as temporary:
            text = json.dumps(manifest(table, layout), indent=1, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
    return path


def describe(path: Path) -> str:
    """Return a line on a dataset.json that `convert` gave (how many cases, labels or targets), and one per remark."""
    content = read_content(path)
    cases = ", ".join(f"{len(content[split])} {split}" for split in SPLITS if content.get(split))
    names = [name for value, name in content.get("labels", {}).items() if value != "0"]
    targets = sorted({name for case in content.get("training", []) for name in case.get("targets", {})})
    told = f"labels {', '.join(names)}" if names else f"targets {', '.join(targets)}" if targets else "no labels"
    kept = "left as it is: " if is_foreign(path) else ""
    return "\n".join([f"{path}: {kept}{cases}; {told}", *content.get("remarks", [])])
