"""How much memory a scan will take beside the network, told before any of it is taken, and the sweep that fits."""

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from mimzoo.errors import MimzooError, ScanError
from mimzoo.files import free_memory
from mimzoo.grids import Grid, spaced, to_ras
from mimzoo.recipes import Input
from mimzoo.sweep import Layout, Sweep
from mimzoo.tasks import Task

FLOAT_BYTES = 4
STATUS = Path("/proc/self/status")
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class Manner:
    """How scans are gone over.

    `overlap` takes the place of the model's own; `batch` windows are predicted at once; with `skip_background` those
    are left out in which every channel has one value throughout, see `Sweep`. The process shall take no more than
    `memory_bytes`, network included (None: what is free).
    """

    overlap: float | None = None
    batch: int = 1
    skip_background: bool = False
    memory_bytes: int | None = None


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


def needed_bytes(grid: Grid, input: Input, task: Task, sweep: Sweep) -> int:
    """Return the memory that a scan on a grid takes at most, beside the network: voxels, windows, sums and answer.

    The scan itself counts with its voxels in float32, before and after it is prepared, and once more where it must be
    padded to the window; the answer counts on both grids.
    """
    channels, outputs = len(input.channels), len(task.outputs)
    # voxels that take no memory, of which only the grid is wanted
    _, native, _ = to_ras(np.broadcast_to(np.float32(0), grid.shape), grid)
    prepared = spaced(native, input.spacing_mm).shape
    padded = tuple(max(length, window) for length, window in zip(prepared, sweep.roi, strict=True))
    voxels = prod(grid.shape) + prod(prepared) + (prod(padded) if padded != prepared else 0)
    total = FLOAT_BYTES * channels * voxels
    if task.of_scan:
        return total + FLOAT_BYTES * channels * sweep.batch * prod(sweep.roi)
    masks = outputs if task.kind == "regions" else 1
    # windows and their logits, which are there twice while an engine hands them over
    total += FLOAT_BYTES * sweep.batch * prod(sweep.roi) * (channels + 2 * outputs)
    total += FLOAT_BYTES * outputs * Layout(padded, sweep).most_held()
    return total + masks * (prod(padded) + prod(grid.shape))


def fitting(name: str, grid: Grid, input: Input, task: Task, sweep: Sweep, limit: int | None) -> tuple[Sweep, int]:
    """Return the sweep with which a scan fits into `limit` bytes beside the network, and what it then takes.

    That is the sweep itself where it fits, else one of smaller batches, else one along the axis that takes least.
    Raises ScanError, with `name` and the least that is needed, where none fits.
    """
    tried = [sweep, replace(sweep, batch=1), *(replace(sweep, batch=1, axis=axis) for axis in range(3))]
    needs = [(needed_bytes(grid, input, task, one), one) for one in tried]
    for need, one in needs[:2]:
        if limit is None or need <= limit:
            return one, need
    need, one = min(needs, key=lambda pair: pair[0])
    if limit is not None and need > limit:
        raise ScanError(
            f"{name}: needs {need / 1e9:.2f} GB of memory beside the network, "
            f"{max(limit, 0) / 1e9:.2f} GB are left for it"
        )
    return one, need
