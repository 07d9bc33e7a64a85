"""Take a pretraining step with every encoder and objective, and write the table of `docs/pretraining.md`.

    python tools/make_grid.py [--data DIR] [--check]

The steps are taken on crops of two scans of DIR, by default on generated phantoms. With --check nothing is written, and
it fails when the table on the page is another.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from mimzoo.data.datasets import read_dataset
from mimzoo.phantoms import make_phantom
from mimzoo.recipes import Input, ZScore
from mimzoo.reconstruct import middle_crop
from mimzoo.testing.grid import grid_table, try_grid
from mimzoo.volume import Volume, prepare, read_scan

PAGE = Path(__file__).parents[1] / "docs" / "pretraining.md"
BEGIN, END = "<!-- grid: generated -->", "<!-- grid: end -->"
CROP = (64, 64, 64)
# Sizes of one architecture differ in nothing that matters here, so all are built shallow and narrow.
VIT, SWIN = {"depth": 4}, {"depths": [1, 1, 1, 1], "width": 24}
VAN = {"widths": [16, 32, 64, 64], "depths": [1, 1, 1, 1]}
RESENC = {"features": [8, 16, 32, 64, 80, 80], "blocks": [1, 1, 1, 1, 1, 1]}
SHALLOW = {
    f"{family}-{size}": args
    for family, sizes, args in (
        ("vit", ("small", "base"), VIT),
        ("primus", ("small", "base", "medium"), VIT),
        ("swin", ("tiny", "small", "base"), SWIN),
        ("van", ("tiny", "small", "base"), VAN),
        ("resenc", ("small", "base", "large"), RESENC),
    )
    for size in sizes
}


def read_crops(data: Path | None) -> Tensor:
    """Return two crops (2, 1, *CROP) of the middle of prepared scans, padded where the scans are smaller."""
    if data is None:
        scans = [make_phantom(seed)[0] for seed in (0, 1)]
    else:
        scans = [read_scan(case.image) for case in read_dataset(data).training[:2]]
    return torch.stack([torch.from_numpy(middle_crop(prepare(scan, look_of(scan)).voxels, CROP)) for scan in scans])


def look_of(scan: Volume) -> Input:
    spacing = scan.grid.spacing_mm
    return Input(channels=("any",), spacing_mm=spacing, intensity=ZScore(mode="zscore"), crop=CROP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    page = PAGE.read_text()
    before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
    fresh = f"{before}\n{grid_table(try_grid(read_crops(asked.data), SHALLOW))}\n{after}"
    if asked.check and fresh != page:
        raise SystemExit(f"{PAGE.name} is out of date: run python tools/make_grid.py\n\n{fresh}")
    if not asked.check:
        PAGE.write_text(fresh)
    print(f"{PAGE.name} {'is up to date' if asked.check else 'written'}")


if __name__ == "__main__":
    main()
