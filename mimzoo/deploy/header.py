"""What an ONNX file says of itself, read from its bytes before any engine opens it; its weights stay where they are."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mimzoo.deploy.metadata import REMEDY
from mimzoo.errors import ExportError

# Where a message lies in the file.
Span = tuple[int, int]
# The ways in which protobuf writes a field (its wire types).
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5
# Fields of onnx.proto (ONNX 1.20), by the message that has them.
MODEL_GRAPH, MODEL_PROPS, MODEL_TRAINING, MODEL_FUNCTIONS = 7, 14, 20, 25
GRAPH_NODES, GRAPH_TENSORS, GRAPH_INPUTS, GRAPH_OUTPUTS, GRAPH_SPARSE = 1, 5, 11, 12, 15
TENSOR_EXTERNAL = 13
# Of each message, the fields that can hold tensors somewhere within, and the kind of message that each holds.
WITHIN = {
    "model": {MODEL_GRAPH: "graph", MODEL_TRAINING: "training", MODEL_FUNCTIONS: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {GRAPH_NODES: "node", GRAPH_TENSORS: "tensor", GRAPH_SPARSE: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}


@dataclass(frozen=True)
class Value:
    """An input or output of a graph: its name, ONNX's number of its type, its shape (None where an axis is open)."""

    name: str
    type: int
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Header:
    """The metadata_props, inputs and outputs of an ONNX file."""

    props: dict[str, str]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def read_header(path: Path) -> Header:
    """Return what an ONNX file says of itself.

    Raises ExportError, with the path, for what is no ONNX file, and for one that keeps numbers in other files: mimzoo
    writes none like that, and through such a file a graph could read any other on this machine.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _header(path, Message(content, (0, len(content))))
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path}: not an ONNX file ({error}){REMEDY}") from error


def _header(path: Path, model: "Message") -> Header:
    graph = next(model.messages(MODEL_GRAPH), None)
    if graph is None:
        raise ValueError("it holds no graph")
    outside = next(_outside(model, "model"), None)
    if outside is not None:
        raise ExportError(
            f"{path}: keeps weights in another file ({outside!r}), which mimzoo never does, so it is not opened{REMEDY}"
        )
    props = {prop.text(1): prop.text(2) for prop in model.messages(MODEL_PROPS)}
    inputs, outputs = (tuple(map(_value, graph.messages(key))) for key in (GRAPH_INPUTS, GRAPH_OUTPUTS))
    return Header(props, inputs, outputs)


def _outside(message: "Message", kind: str) -> Iterator[str]:
    """Yield where tensors lie outside the file, in whichever part of a graph they are."""
    if kind == "tensor":
        for entry in message.messages(TENSOR_EXTERNAL):
            if entry.text(1) == "location":
                yield entry.text(2)
    parts = WITHIN.get(kind, {})
    for number, value in message.fields():
        if number in parts and isinstance(value, tuple):
            yield from _outside(Message(message.content, value), parts[number])


def _value(value: "Message") -> Value:
    """Return a ValueInfoProto."""
    tensor = next((t for kind in value.messages(2) for t in kind.messages(1)), None)
    if tensor is None:
        return Value(value.text(1), 0, ())
    axes = [axis for shape in tensor.messages(2) for axis in shape.messages(1)]
    return Value(value.text(1), tensor.number(1) or 0, tuple(axis.number(1) for axis in axes))


@dataclass(frozen=True)
class Message:
    """A protobuf message within a file's content; ValueError where it is damaged."""

    content: mmap.mmap
    span: Span

    def fields(self) -> Iterator[tuple[int, int | Span]]:
        """Yield the number of each field, and its value: a whole number, or where in the file it lies."""
        at, end = self.span
        while at < end:
            key, at = self._varint(at)
            way = key & 7
            value: int | Span
            if way == VARINT:
                value, at = self._varint(at)
            elif way in (LENGTH, EIGHT_BYTES, FOUR_BYTES):
                length, at = self._varint(at) if way == LENGTH else ({EIGHT_BYTES: 8, FOUR_BYTES: 4}[way], at)
                value, at = (at, at + length), at + length
            else:
                raise ValueError(f"byte {at} cannot be read")
            if at > end:
                raise ValueError("it ends early")
            yield key >> 3, value

    def messages(self, number: int) -> Iterator["Message"]:
        """Yield the messages in the fields of a number."""
        for found, value in self.fields():
            if found == number and isinstance(value, tuple):
                yield Message(self.content, value)

    def text(self, number: int) -> str:
        """Return the text in the last field of a number, empty without one."""
        found = [self.content[message.span[0] : message.span[1]] for message in self.messages(number)]
        return found[-1].decode() if found else ""

    def number(self, number: int) -> int | None:
        """Return the whole number in the last field of a number; None without one."""
        found = [value for key, value in self.fields() if key == number and isinstance(value, int)]
        return found[-1] if found else None

    def _varint(self, at: int) -> tuple[int, int]:
        """Return the number that begins at a byte, seven bits in each, and where the next field begins."""
        value = shift = 0
        while shift < 70:
            if at >= self.span[1]:
                raise ValueError("it ends early")
            byte = self.content[at]
            value |= (byte & 127) << shift
            shift, at = shift + 7, at + 1
            if byte < 128:
                return value, at
        raise ValueError(f"byte {at} cannot be read")
