"""A graph in an ONNX file: found, checked against its metadata, and given to the engine that runs it."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from mimzoo.deploy.choice import LOGITS, VOLUME, Choice
from mimzoo.deploy.engines import first_line, open_engine
from mimzoo.deploy.header import Header, Value, read_header
from mimzoo.deploy.metadata import REMEDY, Metadata
from mimzoo.errors import ExportError, ShapeError
from mimzoo.files import sha256_of
from mimzoo.grids import Floats

MODEL_FILE = "model.onnx"
# Types of values by their numbers in ONNX, as far as anyone exports networks with them.
TYPES = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}


class Graph:
    """An exported network with its metadata; `model` is the file, or a folder that holds model.onnx.

    `engine` is what runs it, `passed` tells why the engines before it in the order do not.
    Raises ExportError for a file that is missing, damaged, without metadata, with weights in other files, or whose
    shapes contradict its metadata, and MimzooError when no engine can be had as `choice` asks for it.
    """

    def __init__(self, model: Path, choice: Choice | None = None) -> None:
        self.path, self.choice = _model_path(model), choice or Choice()
        header = read_header(self.path)
        self.metadata = Metadata.from_props(header.props, str(self.path))
        _check_graph(self.path, header, self.metadata)
        self.engine, self.passed = open_engine(self.path, self.choice)

    @cached_property
    def sha256(self) -> str:
        """Return the sha256 of the file."""
        return sha256_of(self.path)

    @property
    def about(self) -> str:
        """Return what runs the graph, and in which precision, in a few words."""
        asked, own = self.choice.precision, self.metadata.precision
        return f"{self.engine.about}, {asked if own == 'float32' else f'a graph in {own}'}"

    def warm(self, batch: int = 1) -> None:
        """Run a batch of zeros, so that the engine takes the memory that it needs for such; ShapeError when it fails.

        ONNX Runtime computes a batch at once, and keeps what it took.
        """
        self.predict(np.zeros((batch, len(self.metadata.input.channels), *self.metadata.roi), np.float32))

    def predict(self, windows: Floats) -> Floats:
        """Return the logits of prepared windows (B, C, *roi); ShapeError when the engine fails on them."""
        logits = np.empty((len(windows), *_answered(self.metadata)), np.float32)
        try:
            self.engine.run(np.ascontiguousarray(windows), logits)
        # Engines' own errors share no base class but this one.
        except Exception as error:
            asked = f"give outputs of shape {logits.shape} for windows of shape {windows.shape}"
            raise ShapeError(f"{self.engine.about} could not {asked} ({first_line(error)})") from error
        return logits


def _model_path(model: Path) -> Path:
    path = model / MODEL_FILE if model.is_dir() else model
    if not path.is_file():
        raise ExportError(f"{path}: no such file; give an .onnx file, or a folder in which `mimzoo export` put one")
    return path


def _check_graph(path: Path, header: Header, metadata: Metadata) -> None:
    """Refuse a graph whose inputs and outputs are not those that the metadata promises."""
    wanted = {
        VOLUME: (header.inputs, (len(metadata.input.channels), *metadata.roi)),
        LOGITS: (header.outputs, _answered(metadata)),
    }
    for name, (found, shape) in wanted.items():
        if [value.name for value in found] != [name]:
            raise ExportError(
                f"{path}: the graph has {[v.name for v in found]} where only {name!r} is expected{REMEDY}"
            )
        if TYPES.get(found[0].type) != "float32" or not _fits(found[0].shape, shape):
            expected = f"float32 {['batch', *shape]}"
            raise ExportError(f"{path}: {name} is {_said(found[0])}, but its metadata says {expected}{REMEDY}")


def _said(value: Value) -> str:
    return f"{TYPES.get(value.type, f'of type {value.type}')} {[axis or '?' for axis in value.shape]}"


def _answered(metadata: Metadata) -> tuple[int, ...]:
    task = metadata.task
    return (len(task.outputs),) if task.of_scan else (len(task.outputs), *metadata.roi)


def _fits(given: Sequence[int | None], wanted: Sequence[int]) -> bool:
    """Return whether a graph's shape allows (1, *wanted); what it leaves open is checked when it runs."""
    expected = (1, *wanted)
    return len(given) == len(expected) and all(
        have is None or have == want for have, want in zip(given, expected, strict=True)
    )
