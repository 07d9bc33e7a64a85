"""Deployed models: a scan in, its answer out, with the preprocessing and the grid that belong to it."""

import os
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

from mimzoo.answers import Answer, Told, answer
from mimzoo.deploy.agreement import check_agreement
from mimzoo.deploy.choice import Choice
from mimzoo.deploy.graph import Graph
from mimzoo.deploy.memory import Given, Manner, fitting, memory_left, reading_bytes
from mimzoo.deploy.metadata import Metadata
from mimzoo.errors import ExportError, ScanError, ShapeError
from mimzoo.masks import LabelMap, RegionMap
from mimzoo.nifti import as_float32, as_small, read_form
from mimzoo.recipes import Input, Labels, Size
from mimzoo.sides import X, mirrored_outputs, refuse_unpaired
from mimzoo.sweep import Sweep
from mimzoo.tasks import Kind
from mimzoo.volume import Volume, read_scan, stream

Scan = str | Path | Sequence[str | Path] | Volume


class Deployed:
    """A model in an ONNX file: the file, or a folder that holds model.onnx; `choice` says what runs it, and how.

    `manner` says how scans are gone over.
    Raises ExportError and MimzooError as `Graph` does, and ExportError for a model of another kind of task, or one
    whose card names no axes where `manner` would have it mirrored along those, or which would take left for right.
    """

    kinds: tuple[Kind, ...] = ()

    def __init__(self, model: str | Path | Graph, choice: Choice | None = None, manner: Manner | None = None) -> None:
        self.graph = model if isinstance(model, Graph) else Graph(Path(model), choice)
        self.manner = manner or Manner()
        self.agreement = "" if self.graph.choice.precision == "float32" else None
        if self.manner.mirror == "card" and not self.metadata.flip_axes:
            raise ExportError(f"{self.path}: no crops were mirrored in its training; name the axes, or do without")
        try:
            refuse_unpaired(self.metadata.task, self.mirror, self.metadata.sided_labels)
            self._sweep()
        except (ValueError, ShapeError) as error:
            raise ExportError(f"{self.path}: {error}") from None
        found = self.metadata.task.kind
        if found not in self.kinds:
            right = next(known.__name__ for known in MODELS if found in known.kinds)
            raise ExportError(f"{self.path}: this model answers with {found}; open it with mimzoo.deploy.{right}")

    @property
    def path(self) -> Path:
        """Return the ONNX file."""
        return self.graph.path

    @property
    def metadata(self) -> Metadata:
        """Return what the file says of itself."""
        return self.graph.metadata

    @property
    def card(self) -> str:
        """Return the name of the card that the model was exported from."""
        return self.metadata.card

    @property
    def card_sha256(self) -> str:
        """Return the sha256 of that card."""
        return self.metadata.card_sha256

    @property
    def input(self) -> Input:
        """Return what the model sees of a scan."""
        return self.metadata.input

    @property
    def labels(self) -> Labels:
        """Return the names of the label values; empty for a model that tells of whole scans."""
        return self.metadata.labels or {}

    @property
    def roi(self) -> Size:
        """Return the window (X, Y, Z) in voxels of the input spacing."""
        return self.metadata.roi

    @property
    def overlap(self) -> float:
        """Return the share by which neighbouring windows overlap."""
        return self.metadata.overlap if self.manner.overlap is None else self.manner.overlap

    def read(self, scan: Scan) -> Volume:
        """Return a scan with the model's channels: one file, or one for each channel in the order of `input`.

        Small whole numbers stay as they are stored. Raises ScanError as `read_scan` does.
        """
        return scan if isinstance(scan, Volume) else read_scan(self._files(scan), len(self.input.channels), as_small)

    def _files(self, scan: Scan) -> list[Path]:
        """Return the files of a scan, none of a Volume; ScanError for another number than the model has use for."""
        if isinstance(scan, Volume):
            return []
        channels, files = self.input.channels, [scan] if isinstance(scan, str | Path) else scan
        if len(files) not in (1, len(channels)):
            raise ScanError(
                f"{', '.join(map(str, files))}: {len(files)} files where the model sees {len(channels)} channel(s); "
                f"give one file for each of {', '.join(channels)}, in this order"
            )
        return list(map(Path, files))

    def plan(self, scan: Scan, polished: bool = False) -> tuple[Sweep, int]:
        """Return how windows will go over a scan, and the memory (bytes) that it takes at most beside the network.

        `polished` says whether its masks will be put right. Of files only the headers are read. Raises ScanError where
        there is not enough memory, and as `read`.
        """
        name = scan.name if isinstance(scan, Volume) else str(self._files(scan)[0])
        given = replace(self._given(scan), polished=polished)
        return fitting(name, given, self.input, self.metadata.task, self._sweep(), memory_left(self.manner))

    def _given(self, scan: Scan) -> Given:
        """Return what the headers of a scan tell."""
        if isinstance(scan, Volume):
            return Given(scan.grid, 0)
        files, channels = self._files(scan), len(self.input.channels)
        if len(files) == 1:
            grid, form = read_form(files[0], channels, as_small)
            return Given(grid, prod(grid.shape) * channels * form.itemsize)
        forms = [read_form(file, 1, as_float32) for file in files]
        held = prod(forms[0][0].shape) * channels * forms[0][1].itemsize
        return Given(forms[0][0], held, reading_bytes([grid for grid, _ in forms]))

    @property
    def mirror(self) -> tuple[int, ...]:
        """Return the axes along which windows are seen mirrored too."""
        return self.metadata.flip_axes if self.manner.mirror == "card" else self.manner.mirror

    def _sweep(self) -> Sweep:
        manner, pairs = self.manner, self.metadata.sided_labels
        return Sweep(
            self.roi,
            self.overlap,
            manner.batch,
            skip_constant=manner.skip_background,
            within_body=manner.within_body,
            mirror=self.mirror,
            swapped=mirrored_outputs(self.metadata.task, pairs) if pairs and X in self.mirror else (),
            threads=self.graph.choice.threads or os.cpu_count() or 1,
        )

    def __call__(self, scan: Scan) -> Answer:
        """Return the answer for a scan (NIfTI files, or a Volume), masks in the scan's own grid.

        A graph in another precision than float32 is held against float32 on the first scan, see `check_agreement`;
        `agreement` is what that said.
        Raises ScanError when the scan cannot be used or would not fit into memory, ExportError when the model fails or
        does not agree.
        """
        sweep, _ = self.plan(scan)
        volume = self.read(scan)
        try:
            prepared = stream(volume, self.input)
            if self.agreement is None:
                self.agreement = check_agreement(self.graph, prepared.voxels)
            return answer(self.metadata.task, self.graph.predict, prepared, sweep)
        except ShapeError as error:
            raise ExportError(f"{self.path}: the model fails on {volume.name}: {error}") from error


class Segmenter(Deployed):
    """A model that gives every voxel one label."""

    kinds = ("labels",)

    def __call__(self, scan: Scan) -> LabelMap:
        """Return the labels of a scan in the scan's own grid; errors as `Deployed`'s."""
        labels = super().__call__(scan)
        assert isinstance(labels, LabelMap)  # as the task's kind says
        return labels


class RegionSegmenter(Deployed):
    """A model that draws regions which may overlap."""

    kinds = ("regions",)

    def __call__(self, scan: Scan) -> RegionMap:
        """Return the masks of a scan's regions in the scan's own grid; errors as `Deployed`'s."""
        regions = super().__call__(scan)
        assert isinstance(regions, RegionMap)  # as the task's kind says
        return regions


class Predictor(Deployed):
    """A model that tells of a whole scan: the probability of each class, or a number."""

    kinds = ("classes", "value")

    def __call__(self, scan: Scan) -> Told:
        """Return the probability of each class, or the number under its name; errors as `Deployed`'s."""
        told = super().__call__(scan)
        assert isinstance(told, dict)  # as the task's kind says
        return told


MODELS: tuple[type[Deployed], ...] = (Segmenter, RegionSegmenter, Predictor)


def open_model(model: str | Path, choice: Choice | None = None, manner: Manner | None = None) -> Deployed:
    """Return the deployed model of an ONNX file, of whichever kind it is; errors as `Deployed`'s."""
    graph = Graph(Path(model), choice)
    return next(known for known in MODELS if graph.metadata.task.kind in known.kinds)(graph, manner=manner)
