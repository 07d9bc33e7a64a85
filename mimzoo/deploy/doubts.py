"""What makes a model's answer for a scan doubtful: where it lies, and voxels or intensities unlike those trained on."""

from dataclasses import replace

import numpy as np

from mimzoo.grids import Array, Grid, to_ras
from mimzoo.planes import AIR_HU
from mimzoo.recipes import Input, WindowHU
from mimzoo.volume import Volume

# How many times larger or smaller than the model's a voxel may be along an axis.
FACTOR = 2.0
# The share of voxels with one value from which on a channel is called nearly constant.
CONSTANT = 0.999
# Voxels that are looked at, at most.
SAMPLED = 1_000_000
# How far apart (voxels) the two forms of a header may put a corner of a scan.
APART = 0.5


def doubts(scan: Volume, input: Input) -> tuple[str, ...]:
    """Return one sentence for each thing about a scan that lies far outside what a model's input promises.

    That is a spacing of more than twice or less than half the model's along an axis of RAS+; for a window in Hounsfield
    units a channel in which nothing is as dark as air and fat are there, or that lies wholly beyond the window; a
    channel nearly all of whose voxels have one value; and a header whose sform and qform put a corner of the scan more
    than half a voxel apart.
    """
    channels = zip(input.channels, scan.voxels, strict=True)
    found = [
        _of_forms(scan.grid),
        _of_spacing(scan.grid, input),
        *(_of_channel(name, voxels, input) for name, voxels in channels),
    ]
    return tuple(f"{scan.name}: {sentence}" for sentence in found if sentence)


def _of_forms(grid: Grid) -> str:
    forms = grid.forms
    if forms is None or forms.sform is None or forms.qform is None:
        return ""
    apart = replace(grid, affine=forms.sform).distance_mm(replace(grid, affine=forms.qform))
    if not apart > APART * min(grid.spacing_mm):
        return ""
    return (
        f"sform and qform of its header lie up to {apart:.3g} mm apart, so that programs differ in where they show it; "
        "the sform was used, and the mask has both"
    )


def _of_spacing(grid: Grid, input: Input) -> str:
    # voxels that take no memory, of which only the grid is wanted
    _, native, _ = to_ras(np.broadcast_to(np.float32(0), grid.shape), grid)
    ratios = [max(own / wanted, wanted / own) for own, wanted in zip(native.spacing_mm, input.spacing_mm, strict=True)]
    far = [axis for axis, ratio in zip("XYZ", ratios, strict=True) if round(ratio, 3) > FACTOR]
    if not far:
        return ""
    own, wanted = (" x ".join(f"{mm:.3g}" for mm in spacing) for spacing in (native.spacing_mm, input.spacing_mm))
    return f"voxels of {own} mm are far from the {wanted} mm that the model sees, along {' and '.join(far)}"


def _of_channel(name: str, voxels: Array, input: Input) -> str:
    low, high = float(voxels.min()), float(voxels.max())
    if isinstance(input.intensity, WindowHU):
        least, most = input.intensity.window_hu
        if high <= least or low >= most:
            return f"all of {name} lies beyond the model's window of {least:g} to {most:g} HU ({low:g} to {high:g})"
        if least < 0 and low > (dark := max(least, AIR_HU)):
            return (
                f"{name} has no value below {dark:g}, so these are hardly the Hounsfield units that the model expects"
            )
    share = _most_common(voxels)
    return f"{share:.2%} of the voxels of {name} have one value" if share > CONSTANT else ""


def _most_common(voxels: Array) -> float:
    """Return the share of the commonest value, of voxels on a regular grid where there are many."""
    step = max(1, int(np.ceil((voxels.size / SAMPLED) ** (1 / 3))))
    seen = voxels[::step, ::step, ::step]
    # whatever more than half of them share is the median
    return float(np.mean(seen == np.median(seen)))
