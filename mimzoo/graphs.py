"""Networks as ONNX graphs: in float32, in float16 for CUDA and TensorRT, in calibrated int8."""

import logging
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnxruntime import quantization
from torch import Tensor, nn

from mimzoo.deploy import LOGITS, VOLUME, Scan
from mimzoo.errors import ExportError
from mimzoo.grids import Floats, pad_to
from mimzoo.recipes import Input
from mimzoo.sweep import Layout, Sweep, places
from mimzoo.tokens import sized
from mimzoo.volume import Volume, prepare, read_scan

OPSET = 20
# What is computed in int8: layers with weights of their own. Norms, softmax and products of activations stay float32.
LAYERS = ["Conv", "Gemm", "MatMul"]
WINDOWS_PER_SCAN = 4


def graph_of(module: nn.Module, volume: Tensor) -> onnx.ModelProto:
    """Return the graph of a module for volumes (B, C, X, Y, Z) of this size, of which the number is free.

    Raises ExportError where torch cannot export it.
    """
    with warnings.catch_warnings(), Quiet("torch.onnx"), Quiet("onnxscript"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (volume,),
            input_names=[VOLUME],
            output_names=[LOGITS],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ExportError(f"torch could not export the model for {sized(volume.shape[2:])} voxels; try another head")
    graph: onnx.ModelProto = program.model_proto
    # notes on each node, with the places of source files on this machine
    for noted in (graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.input, *graph.graph.output):
        noted.ClearField("metadata_props")
    return graph


class Quiet:
    """A context in which a logger says nothing below errors: exporters report their own progress."""

    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(name)
        self.level = self.logger.level

    def __enter__(self) -> None:
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *error: object) -> None:
        self.logger.setLevel(self.level)


class Halved(nn.Module):
    """A model that computes in float16, between a volume and logits that are float32.

    Norms of maps take their sums in float32 all the same, see `mimzoo.norms.Norm`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.half()

    def forward(self, volume: Tensor) -> Tensor:
        """Return the logits of a volume (B, C, X, Y, Z)."""
        logits: Tensor = self.model(volume.half())
        return logits.float()


def quantise(graph: onnx.ModelProto, windows: Iterable[Floats]) -> onnx.ModelProto:
    """Return a graph whose layers compute in int8, with scales for each channel of their weights.

    The ranges of activations are those that they have on `windows` (C, *roi). The layers that see the volume itself or
    give the logits stay float32. Quantisation is written out as QuantizeLinear and DequantizeLinear (QDQ; Wu et al.
    2020, arXiv 2004.09602), which ONNX Runtime, OpenVINO and TensorRT make int8 layers of.
    """
    with TemporaryDirectory() as folder, Quiet("root"):
        # a graph that is given itself would be changed
        whole, path = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save_model(graph, whole)
        quantization.quantize_static(
            whole,
            path,
            Windows(windows),
            op_types_to_quantize=LAYERS,
            nodes_to_exclude=outer_layers(graph),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(path)


class Windows(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Windows as ONNX Runtime's calibration asks for them: one by one, None after the last."""

    def __init__(self, windows: Iterable[Floats]) -> None:
        self.left = iter(windows)

    def get_next(self) -> dict[str, Floats] | None:
        """Return the next window under the name of the graph's input."""
        found = next(self.left, None)
        return None if found is None else {VOLUME: found[None]}


def outer_layers(graph: onnx.ModelProto) -> list[str]:
    """Return the names of the layers that the volume reaches first, and of the one that gives the logits."""
    makers = {name: node for node in graph.graph.node for name in node.output}
    seen, outer = {VOLUME}, []
    for node in graph.graph.node:
        if seen & set(node.input) and node.op_type != "Shape":
            if node.op_type in LAYERS:
                outer.append(node.name)
            else:
                seen.update(node.output)
    last = makers[LOGITS]
    while last.op_type not in LAYERS and last.input[0] in makers:
        last = makers[last.input[0]]
    return [*outer, last.name]


def calibration_windows(scans: Iterable[Scan], input: Input) -> Iterator[Floats]:
    """Yield a few windows (C, *crop) of each scan, evenly spread over it."""
    for scan in scans:
        volume = scan if isinstance(scan, Volume) else read_scan(scan, len(input.channels))
        voxels = prepare(volume, input).voxels
        padded, _ = pad_to(voxels, input.crop, voxels.min(axis=(1, 2, 3)))
        corners = Layout(padded.shape[1:], Sweep(input.crop, 0.5)).corners
        picked = np.linspace(0, len(corners) - 1, min(WINDOWS_PER_SCAN, len(corners))).astype(int)
        for number in picked:
            yield np.ascontiguousarray(padded[(slice(None), *places(corners[number], input.crop))])
