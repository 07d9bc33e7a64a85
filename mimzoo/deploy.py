"""Masks from scans with ONNX Runtime alone: numpy and nibabel, no torch."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from mimzoo.errors import DataError, ExportError, MimzooError, ShapeError
from mimzoo.grids import Floats
from mimzoo.nifti import SUFFIXES
from mimzoo.recipes import Block, Input, Labels, Size
from mimzoo.sliding import slide
from mimzoo.volume import LabelMap, Volume, prepare, read_scan

KEY = "mimzoo"
VOLUME, LOGITS = "volume", "logits"
MODEL_FILE = "model.onnx"
# Tried in this order; what the installed ONNX Runtime lacks is passed over.
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
ERRORS_ONLY = 3
REMEDY = "; make the file anew with `mimzoo export`"

CaseProgress = Callable[[int, int, str], object]


class Metadata(Block):
    """What an ONNX file says of itself: the card it came from, its input, labels, window (voxels) and overlap."""

    format: Literal[1] = 1
    card: str
    card_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    input: Input
    labels: Annotated[Labels, Field(min_length=1)]
    roi: Size
    overlap: Annotated[float, Field(ge=0, lt=1)]

    @model_validator(mode="after")
    def _labels_count_up(self) -> Self:
        if sorted(self.labels) != list(range(1, 1 + len(self.labels))):
            raise ValueError(f"labels must count up from 1, got {sorted(self.labels)}")
        return self

    def to_props(self) -> dict[str, str]:
        """Return the metadata_props of the ONNX file: one key with sorted JSON and a checksum of it."""
        content = self.model_dump(mode="json")
        return {KEY: json.dumps({**content, "sha256": _digest(content)}, sort_keys=True)}

    @classmethod
    def from_props(cls, props: Mapping[str, str], name: str = "the model") -> Self:
        """Return the metadata that `to_props` wrote.

        Raises ExportError, with `name`, when there is none, when it was changed, or when it does not follow the schema.
        """
        if KEY not in props:
            raise ExportError(f"{name}: the ONNX file was not made by mimzoo (it lacks the metadata {KEY!r}){REMEDY}")
        try:
            content = json.loads(props[KEY])
            checksum = content.pop("sha256", None)
            found = cls.model_validate_json(json.dumps(content))
        except ValidationError as error:
            raise ExportError(f"{name}: the metadata is not valid ({_first(error)}){REMEDY}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise ExportError(f"{name}: the metadata is damaged ({error}){REMEDY}") from error
        if checksum != _digest(content):
            raise ExportError(f"{name}: the metadata was changed after the export (its checksum differs){REMEDY}")
        return found


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}".removeprefix(": ")


class Segmenter:
    """A segmentation model in an ONNX file, with its preprocessing: scan in, labels in the scan's own grid out.

    `model` is the file, or a folder that holds model.onnx; `threads` limits the processor threads (default: all).
    Raises ExportError for a file that is missing, damaged, without metadata, or whose shapes contradict its metadata,
    and MimzooError when ONNX Runtime is not installed.
    """

    def __init__(self, model: str | Path, threads: int | None = None) -> None:
        self.path = _model_path(Path(model))
        self.session = _session(self.path, threads)
        self.metadata = Metadata.from_props(self.session.get_modelmeta().custom_metadata_map, str(self.path))
        _check_graph(self.path, self.session, self.metadata)

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
        """Return the names of the label values."""
        return self.metadata.labels

    @property
    def roi(self) -> Size:
        """Return the window (X, Y, Z) in voxels of the input spacing."""
        return self.metadata.roi

    @property
    def overlap(self) -> float:
        """Return the share by which neighbouring windows overlap."""
        return self.metadata.overlap

    def __call__(self, scan: str | Path | Volume) -> LabelMap:
        """Return the labels of a scan (a NIfTI file or a Volume) in the scan's own grid.

        Raises ScanError when the scan cannot be used, ExportError when the model fails on it.
        """
        volume = scan if isinstance(scan, Volume) else read_scan(scan, len(self.input.channels))
        prepared = prepare(volume, self.input)
        try:
            labels = slide(self._predict, prepared.voxels, self.roi, self.overlap, 1 + len(self.labels))
        except ShapeError as error:
            raise ExportError(f"{self.path}: the model cannot segment {volume.name}: {error}") from error
        return prepared.restore(labels, self.labels)

    def _predict(self, windows: Floats) -> Floats:
        try:
            (logits,) = self.session.run([LOGITS], {VOLUME: windows})
        # ONNX Runtime's errors share no base class but this one.
        except Exception as error:
            raise ShapeError(f"ONNX Runtime failed ({_line(error)})") from error
        return np.asarray(logits)


def _model_path(model: Path) -> Path:
    path = model / MODEL_FILE if model.is_dir() else model
    if not path.is_file():
        raise ExportError(f"{path}: no such file; give an .onnx file, or a folder in which `mimzoo export` put one")
    return path


def _session(path: Path, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MimzooError("segmenting needs ONNX Runtime; install it with: pip install 'mimzoo[deploy]'") from error
    if threads is not None and threads < 1:
        raise MimzooError(f"threads must be at least 1, got {threads}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = threads or 0
    available = onnxruntime.get_available_providers()
    try:
        return onnxruntime.InferenceSession(str(path), options, [p for p in PROVIDERS if p in available])
    # ONNX Runtime's errors share no base class but this one.
    except Exception as error:
        raise ExportError(f"{path}: not an ONNX file that can be run ({_line(error)}){REMEDY}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _check_graph(path: Path, session: Any, metadata: Metadata) -> None:
    """Refuse a graph whose inputs and outputs are not those that the metadata promises."""
    wanted = {
        VOLUME: (session.get_inputs(), (len(metadata.input.channels), *metadata.roi)),
        LOGITS: (session.get_outputs(), (1 + len(metadata.labels), *metadata.roi)),
    }
    for name, (found, shape) in wanted.items():
        if [value.name for value in found] != [name]:
            raise ExportError(
                f"{path}: the graph has {[v.name for v in found]} where only {name!r} is expected{REMEDY}"
            )
        if found[0].type != "tensor(float)" or not _fits(found[0].shape, shape):
            given = f"{found[0].type} {found[0].shape}"
            raise ExportError(f"{path}: {name} is {given}, but its metadata says {['batch', *shape]}{REMEDY}")


def _fits(given: Sequence[int | str | None], wanted: Sequence[int]) -> bool:
    """Return whether a graph's shape allows (1, *wanted); what it leaves open is checked when it runs."""
    expected = (1, *wanted)
    return len(given) == len(expected) and all(
        not isinstance(have, int) or have == want for have, want in zip(given, expected, strict=True)
    )


def segment_files(
    model: str | Path,
    scans: Sequence[str | Path],
    out_dir: str | Path,
    progress: CaseProgress | None = None,
    threads: int | None = None,
) -> tuple[list[Path], list[str]]:
    """Return the masks written, `out_dir`/<scan's stem>.nii.gz each, and one sentence for each scan that failed.

    A scan that fails does not stop the others. `progress(done, total, scan)` is called after each.
    Raises DataError, before anything is done, when two scans would have one mask or a mask would overwrite a scan.
    """
    targets = _targets([Path(scan) for scan in scans], Path(out_dir))
    segment = Segmenter(model, threads)
    _make_folder(Path(out_dir))
    done: list[Path] = []
    failures: list[str] = []
    for number, (scan, target) in enumerate(targets.items(), 1):
        try:
            segment(scan).save(target)
            done.append(target)
        except MimzooError as error:
            failures.append(str(error))
        except (OSError, MemoryError) as error:
            failures.append(f"{scan}: {_line(error) or 'out of memory'}")
        if progress is not None:
            progress(number, len(targets), scan.name)
    return done, failures


def _targets(scans: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Return the mask of each scan."""
    targets: dict[Path, Path] = {}
    owners: dict[Path, Path] = {}
    inputs = {scan.resolve() for scan in scans}
    for scan in scans:
        target = folder / f"{_stem(scan)}.nii.gz"
        if target.resolve() in inputs:
            raise DataError(f"the mask {target} would overwrite a scan; choose another folder for the masks")
        other = owners.setdefault(target, scan)
        if scan in targets or other != scan:
            raise DataError(f"{other} and {scan} would both be written to {target}; rename one, or run them apart")
        targets[scan] = target
    return targets


def _stem(scan: Path) -> str:
    ending = next((s for s in reversed(SUFFIXES) if scan.name.lower().endswith(s)), "")
    return scan.name[: len(scan.name) - len(ending)]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: masks cannot be written there ({error.strerror})") from error
