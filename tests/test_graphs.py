"""Graphs in float32, float16 and int8: what is computed in which, and that it stays near the model."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from mimzoo.graphs import Halved, calibration_windows, graph_of, outer_layers, quantise
from mimzoo.recipes import Input, ZScore
from mimzoo.volume import Grid, Volume

INPUT = Input(channels=("CT",), spacing_mm=(1, 1, 1), intensity=ZScore(mode="zscore"), crop=(8, 8, 8))


class Small(nn.Module):
    """Three convolutions with a scale on the way in and one on the way out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Conv3d(1, 8, 3, 1, 1), nn.Conv3d(8, 8, 3, 1, 1), nn.Conv3d(8, 2, 1)

    def forward(self, volume):
        # (B, 1, X, Y, Z) -> (B, 1, X, Y Z) and back, for which a graph asks the volume for its shape
        volume = volume.flatten(3).reshape(volume.shape) * 2
        return self.last(self.second(self.first(volume).relu()).relu()) / 3


@pytest.fixture(scope="module")
def graph():
    return graph_of(Small().eval(), torch.zeros(2, 1, 8, 8, 8))


def run(graph, volume):
    return onnxruntime.InferenceSession(graph.SerializeToString()).run(None, {"volume": volume})[0]


def windows(count=4):
    return np.random.default_rng(0).normal(size=(count, 1, 8, 8, 8)).astype(np.float32)


def test_a_graph_does_not_tell_where_it_was_made(graph):
    assert __file__.encode() not in graph.SerializeToString() and b"site-packages" not in graph.SerializeToString()


def test_the_outer_layers_are_those_next_to_volume_and_logits(graph):
    layers = [node.name for node in graph.graph.node if node.op_type == "Conv"]
    assert outer_layers(graph) == [layers[0], layers[2]]


def test_int8_is_what_layers_between_them_compute_in(graph):
    found = quantise(graph, iter(windows()))
    makers = {name: node for node in found.graph.node for name in node.output}
    inner = [
        all(name in makers and makers[name].op_type == "DequantizeLinear" for name in node.input[:2])
        for node in found.graph.node
        if node.op_type == "Conv"
    ]
    assert inner == [False, True, False]
    exact, ours = run(graph, windows()), run(found, windows())
    assert 0 < np.abs(ours - exact).max() < 0.1 * exact.std()


def test_a_halved_model_is_near_its_own_and_takes_float32(graph):
    ours = run(graph_of(Halved(Small()).eval(), torch.zeros(2, 1, 8, 8, 8)), windows())
    exact = run(graph, windows())
    assert ours.dtype == np.float32 and 0 < np.abs(ours - exact).max() < 5e-3 * exact.std()


def test_windows_for_calibration_are_prepared_and_spread_over_a_scan():
    grid = Grid((24, 8, 6), np.eye(4))
    voxels = np.arange(24, dtype=np.float32)[None, :, None, None] * np.ones((1, 24, 8, 6), np.float32)
    found = list(calibration_windows([Volume(voxels, grid, "ramp")], INPUT))
    assert {window.shape for window in found} == {(1, 8, 8, 8)} and len(found) == 4
    assert found[0].min() < -1.5 and found[-1].max() > 1.5


def test_quantised_graphs_are_valid(graph):
    onnx.checker.check_model(quantise(graph, iter(windows(1))), full_check=True)
