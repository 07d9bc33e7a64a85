"""How much memory a scan will take beside the network, told before any of it is taken, and the sweep that fits."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np

from mimzoo.errors import MimzooError, ScanError
from mimzoo.files import free_memory
from mimzoo.grids import THIN, Grid, spaced, to_ras
from mimzoo.recipes import Input
from mimzoo.regrid import SLAB, same_grid
from mimzoo.sweep import Sweep, most_held
from mimzoo.tasks import Task

AXES = "xyz"
FLOAT_BYTES = 4
# What interpolating a channel on another grid takes for each voxel of a slab, and putting a mask right for each voxel
# of a scan: as measured, the latter of a mask of noise; a single body takes 9, one of a million specks more.
REGRID_BYTES, POLISH_BYTES = 136, 12
STATUS = Path("/proc/self/status")
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class Manner:
    """How scans are gone over.

    `overlap` takes the place of the model's own; `batch` windows are predicted at once; with `skip_background` those
    are left out in which every channel has one value throughout, with `within_body` those outside the box of the body,
    and `mirror` names the axes along which windows are seen mirrored too ("card": those along which the card had its
    crops mirrored in training); see `Sweep`. The process shall take no more than `memory_bytes`, network included
    (None: what is free); the second network that `check_agreement` opens for a moment comes on top.
    """

    overlap: float | None = None
    batch: int = 1
    skip_background: bool = False
    memory_bytes: int | None = None
    within_body: bool = False
    mirror: tuple[int, ...] | Literal["card"] = ()


def memory_left(manner: Manner) -> int | None:
    """Return the bytes that this process may still take: of what is free, and of what it is allowed."""
    free, limit = free_memory(), manner.memory_bytes
    if limit is None:
        return free
    with suppress(OSError, ValueError, IndexError):
        limit -= int(STATUS.read_text().split("VmRSS:")[1].split()[0]) * 1024
    return limit if free is None else min(free, limit)


def memory_bytes(text: str) -> int:
    """Return the bytes of a text such as "4GB" or "800 MB"; MimzooError for any other."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)\s*", text, re.IGNORECASE)
    if found is None:
        raise MimzooError(f"{text!r} is no amount of memory; write it as 4GB or 800MB")
    return int(float(found[1]) * UNITS[found[2].upper()])


def told_bytes(amount: int) -> str:
    """Return an amount of memory as people write it."""
    return f"{amount / 1e9:.2f} GB" if amount >= UNITS["GB"] else f"{amount / 1e6:.1f} MB"


def mirror_axes(text: str) -> tuple[int, ...] | Literal["card"]:
    """Return the axes of a text such as "xy", or "card" for those of the card; MimzooError for any other."""
    if text == "card":
        return "card"
    if not text or set(text) - set(AXES) or len(set(text)) < len(text):
        raise MimzooError(f"{text!r} names no axes to mirror along; write some of x, y and z, such as xy, or card")
    return tuple(sorted(AXES.index(letter) for letter in text))


@dataclass(frozen=True)
class Given:
    """A scan of which only this is known: its grid, and the bytes that its voxels will take as they are held.

    `reading_bytes` are those that it takes while it is read, where these are more; `polished` says whether its masks
    will be put right.
    """

    grid: Grid
    held_bytes: int
    reading_bytes: int = 0
    polished: bool = False


def reading_bytes(grids: Sequence[Grid]) -> int:
    """Return the memory that it takes at most to read files of one channel each, of these grids, as one scan.

    All channels on the first grid, and beside them one file as it is read, with its copy on the first grid where its
    own is another.
    """
    first = grids[0]
    onto = FLOAT_BYTES * prod(first.shape) + REGRID_BYTES * SLAB * prod(first.shape[1:])
    beside = [FLOAT_BYTES * prod(grid.shape) + (0 if same_grid(grid, first) else onto) for grid in grids]
    return FLOAT_BYTES * len(grids) * prod(first.shape) + max(beside)


def needed_bytes(given: Given, input: Input, task: Task, sweep: Sweep, name: str = "the scan") -> int:
    """Return the memory that a scan takes at most, beside the network: voxels, windows, sums and answer.

    Of the prepared voxels, in float32, those planes count that a window lies in, or all where they must be padded to
    the window; the answer counts on both grids. Reading, and finding percentiles, which takes two copies of a channel,
    come before all that, and putting masks right after it.
    Raises ScanError, with `name`, for a grid that resampled would have more voxels than anyone holds.
    """
    grid, channels, outputs = given.grid, len(input.channels), len(task.outputs)
    masks = outputs if task.kind == "regions" else 1
    # voxels that take no memory, of which only the grid is wanted
    _, native, _ = to_ras(np.broadcast_to(np.float32(0), grid.shape), grid)
    prepared = spaced(native, input.spacing_mm, name).shape
    padded = tuple(max(length, window) for length, window in zip(prepared, sweep.roi, strict=True))
    planes = min(sweep.roi[0] + 2 * THIN, prepared[0])
    seen = planes * prod(prepared[1:]) if padded == prepared else prod(prepared) + prod(padded)
    # windows, twice while they are cut out
    swept = FLOAT_BYTES * channels * (seen + 2 * sweep.batch * prod(sweep.roi))
    if not task.of_scan:
        # their logits, with those of a mirrored view, also in order; the sums, and what adding and deciding take
        views = 1 + bool(sweep.mirror) + bool(sweep.swapped)
        swept += FLOAT_BYTES * outputs * (views * sweep.batch * prod(sweep.roi) + most_held(padded, sweep))
        swept += 2 * FLOAT_BYTES * prod(sweep.roi)
        swept += masks * (prod(padded) + prod(grid.shape))
    ranked = 2 * FLOAT_BYTES * prod(grid.shape) if input.intensity.mode == "percentile" else 0
    # masks as they were and as they are put right, one of them at work
    polished = (2 * masks - 1 + POLISH_BYTES) * prod(grid.shape) if given.polished and not task.of_scan else 0
    return max(given.reading_bytes, given.held_bytes + max(swept, ranked, polished))


def fitting(name: str, given: Given, input: Input, task: Task, sweep: Sweep, limit: int | None) -> tuple[Sweep, int]:
    """Return the sweep with which a scan fits into `limit` bytes beside the network, and what it then takes.

    That is the sweep itself where it fits, else one of smaller batches, else one along the axis that takes least.
    Raises ScanError, with `name` and the least that is needed, where none fits, and as `needed_bytes` does.
    """
    tried = [sweep, replace(sweep, batch=1), *(replace(sweep, batch=1, axis=axis) for axis in range(3))]
    needs = [(needed_bytes(given, input, task, one, name), one) for one in tried]
    for need, one in needs[:2]:
        if limit is None or need <= limit:
            return one, need
    need, one = min(needs, key=lambda pair: pair[0])
    if limit is not None and need > limit:
        raise ScanError(
            f"{name}: needs {told_bytes(need)} of memory beside the network, {told_bytes(max(limit, 0))} are left for "
            "it; free some, or allow more"
        )
    return one, need
