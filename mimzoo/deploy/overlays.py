"""A picture of each mask on its scan, to look through: three planes beside each other, drawn with numpy alone."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimzoo.files import replacing
from mimzoo.grids import Array, Grid, Masks, to_ras
from mimzoo.masks import LabelMap, RegionMap
from mimzoo.palette import colour
from mimzoo.planes import PLANES, Plane, around, fullest, grey_range
from mimzoo.volume import Volume

FOLDER = "overlays"
# Pixels of the longest side of a plane, and between planes.
SIDE, GAP = 384, 8
# How much of the colour of a label is seen inside it; its outline is drawn in full.
OPACITY = 0.3
# Voxels of which black and white are found, at most.
SAMPLED = 1_000_000
# Of a PNG: 8 bits for each of red, green and blue; no interlacing.
RGB = bytes([8, 2, 0, 0, 0])

Pixels = NDArray[np.uint8]


def as_labels(drawn: LabelMap | RegionMap) -> Masks:
    """Return one label map (X, Y, Z) to look at: that itself, or regions over each other, the last of them on top."""
    if isinstance(drawn, LabelMap):
        return drawn.voxels
    labels = np.zeros(drawn.grid.shape, np.uint8)
    for number, mask in enumerate(drawn.masks.values(), 1):
        labels[mask > 0] = number
    return labels


def draw_overlay(path: Path, scan: Volume, labels: Masks) -> None:
    """Write a PNG of labels (X, Y, Z) on the first channel of their scan: axial, coronal and sagittal plane.

    Each plane is the one that shows most of the labels, cut to their surroundings; the patient's right is on the left
    of the first two. The n-th label has the n-th colour of the palette. OSError when it cannot be written.
    """
    voxels, grid, _ = to_ras(scan.voxels[0], scan.grid)
    labels, _, _ = to_ras(labels, scan.grid)
    box = around(labels, grid.spacing_mm)
    low, high = grey_range(_sample(voxels))
    voxels, labels = voxels[box], labels[box]
    indices = [fullest(labels, plane.axis) for plane in PLANES]
    scale = _scale(labels.shape, grid)
    panels = []
    for plane, index in zip(PLANES, indices, strict=True):
        size = _size(plane, labels.shape, grid, scale)
        grey = np.clip((_linear(plane.cut(voxels, index).astype(np.float32), size) - low) / (high - low), 0, 1)
        panels.append(_painted(grey, _nearest(plane.cut(labels, index), size)))
    _write_png(path, _beside(panels))


def _sample(voxels: Array) -> Array:
    """Return voxels of a regular grid, so few that finding percentiles of them takes no time."""
    step = max(1, int(np.ceil((voxels.size / SAMPLED) ** (1 / 3))))
    return voxels[::step, ::step, ::step]


def _scale(shape: Sequence[int], grid: Grid) -> float:
    """Return pixels for a mm, so that the longest side of all planes has SIDE of them."""
    return SIDE / max(length * mm for length, mm in zip(shape, grid.spacing_mm, strict=True))


def _size(plane: Plane, shape: Sequence[int], grid: Grid, scale: float) -> tuple[int, int]:
    """Return the rows and columns of a plane's panel."""
    width, height = plane.size_mm(shape, grid.spacing_mm)
    return max(round(height * scale), 1), max(round(width * scale), 1)


def _places(pixels: int, length: int) -> NDArray[np.float64]:
    """Return where the centres of pixels lie among the centres of `length` voxels."""
    return np.clip((np.arange(pixels) + 0.5) * length / pixels - 0.5, 0, length - 1)


def _nearest(image: Array, size: tuple[int, int]) -> Array:
    rows, columns = (np.rint(_places(*pair)).astype(int) for pair in zip(size, image.shape, strict=True))
    pixels: Array = image[rows[:, None], columns]
    return pixels


def _linear(image: Array, size: tuple[int, int]) -> Array:
    for axis in (0, 1):
        at = _places(size[axis], image.shape[axis])
        low = at.astype(int)
        # (n,) -> (n, 1) along rows
        share = (at - low)[:, None] if axis == 0 else at - low
        above = np.minimum(low + 1, image.shape[axis] - 1)
        image = image.take(low, axis) * (1 - share) + image.take(above, axis) * share
    return image


def _painted(grey: Array, labels: Array) -> Pixels:
    """Return pixels (rows, columns, 3) of a plane between 0 and 1, each label tinted and outlined in its colour."""
    out = np.repeat(grey[..., None], 3, -1)
    edge = _edges(labels)
    for value in np.unique(labels[labels > 0]).tolist():
        inside, tone = labels == value, np.array(colour(value - 1))
        out[inside] = (1 - OPACITY) * out[inside] + OPACITY * tone
        out[inside & edge] = tone
    pixels: Pixels = np.rint(out * 255).astype(np.uint8)
    return pixels


def _edges(labels: Array) -> NDArray[np.bool_]:
    """Return where a pixel's neighbour above or beside it has another label."""
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:-1] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    return edge


def _beside(panels: Sequence[Pixels]) -> Pixels:
    """Return panels side by side on black, each in the middle of the height."""
    height = max(len(panel) for panel in panels)
    out = np.zeros((height, sum(panel.shape[1] for panel in panels) + GAP * (len(panels) - 1), 3), np.uint8)
    left = 0
    for panel in panels:
        top = (height - len(panel)) // 2
        out[top : top + len(panel), left : left + panel.shape[1]] = panel
        left += panel.shape[1] + GAP
    return out


def _write_png(path: Path, pixels: Pixels) -> None:
    """Write pixels (rows, columns, 3) as PNG (ISO/IEC 15948); the same pixels give the same bytes."""
    rows, columns, _ = pixels.shape
    # each row begins with the number of its filter: 0, none
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), pixels.reshape(rows, -1)], 1)
    head = columns.to_bytes(4) + rows.to_bytes(4) + RGB
    chunks = _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(lines.tobytes(), 6)) + _chunk(b"IEND", b"")
    with replacing(path) as temporary:
        temporary.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)
