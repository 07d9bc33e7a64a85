"""A graph in an ONNX file, run by ONNX Runtime: found, opened, checked against its metadata."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mimzoo.deploy.metadata import REMEDY, Metadata
from mimzoo.errors import ExportError, MimzooError, ShapeError
from mimzoo.grids import Floats

VOLUME, LOGITS = "volume", "logits"
MODEL_FILE = "model.onnx"
# Tried in this order; what the installed ONNX Runtime lacks is passed over.
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
ERRORS_ONLY = 3


class Graph:
    """An exported network with its metadata; `model` is the file, or a folder that holds model.onnx.

    Raises ExportError for a file that is missing, damaged, without metadata, or whose shapes contradict its metadata,
    and MimzooError when ONNX Runtime is not installed.
    """

    def __init__(self, model: Path, threads: int | None = None) -> None:
        self.path = _model_path(model)
        self.session = _session(self.path, threads)
        self.metadata = Metadata.from_props(self.session.get_modelmeta().custom_metadata_map, str(self.path))
        _check_graph(self.path, self.session, self.metadata)

    def predict(self, windows: Floats) -> Floats:
        """Return the logits of prepared windows (B, C, *roi); ShapeError when ONNX Runtime fails on them."""
        try:
            (logits,) = self.session.run([LOGITS], {VOLUME: windows})
        # ONNX Runtime's errors share no base class but this one.
        except Exception as error:
            raise ShapeError(f"ONNX Runtime failed ({first_line(error)})") from error
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
        raise MimzooError("ONNX Runtime is not installed; install it with: pip install 'mimzoo[deploy]'") from error
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
        raise ExportError(f"{path}: not an ONNX file that can be run ({first_line(error)}){REMEDY}") from error


def first_line(error: Exception) -> str:
    """Return the beginning of an error's text on one line."""
    return " ".join(str(error).split())[:200]


def _check_graph(path: Path, session: Any, metadata: Metadata) -> None:
    """Refuse a graph whose inputs and outputs are not those that the metadata promises."""
    wanted = {
        VOLUME: (session.get_inputs(), (len(metadata.input.channels), *metadata.roi)),
        LOGITS: (session.get_outputs(), _answered(metadata)),
    }
    for name, (found, shape) in wanted.items():
        if [value.name for value in found] != [name]:
            raise ExportError(
                f"{path}: the graph has {[v.name for v in found]} where only {name!r} is expected{REMEDY}"
            )
        if found[0].type != "tensor(float)" or not _fits(found[0].shape, shape):
            given = f"{found[0].type} {found[0].shape}"
            raise ExportError(f"{path}: {name} is {given}, but its metadata says {['batch', *shape]}{REMEDY}")


def _answered(metadata: Metadata) -> tuple[int, ...]:
    task = metadata.task
    return (len(task.outputs),) if task.of_scan else (len(task.outputs), *metadata.roi)


def _fits(given: Sequence[int | str | None], wanted: Sequence[int]) -> bool:
    """Return whether a graph's shape allows (1, *wanted); what it leaves open is checked when it runs."""
    expected = (1, *wanted)
    return len(given) == len(expected) and all(
        not isinstance(have, int) or have == want for have, want in zip(given, expected, strict=True)
    )
