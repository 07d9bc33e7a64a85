"""bfloat16 is held against float32 on the first scan, and refused where it answers otherwise."""

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from thresholds import ROI, noise, save_model, save_scan

from mimzoo.deploy import Choice, Segmenter
from mimzoo.deploy.agreement import check_agreement
from mimzoo.deploy.graph import Graph
from mimzoo.errors import ExportError, MimzooError


@pytest.fixture
def graph(tmp_path):
    return Graph(save_model(tmp_path / "m.onnx"), Choice("cpu"))


def blurred(graph, offset):
    """The same graph by an engine whose logits of the last class are off."""
    found = Graph(graph.path, graph.choice)
    inner = found.engine
    shift = np.array([0, 0, offset], np.float32).reshape(1, 3, 1, 1, 1)

    def run(windows, logits):
        inner.run(windows, logits)
        logits += shift

    found.engine = SimpleNamespace(name="cpu", about="blurred", run=run)
    return found


def test_what_agrees_says_by_how_much(graph):
    voxels = np.random.default_rng(0).random((1, 20, 20, 8), np.float32)
    assert "0.000% of the answers clearly differ" in check_agreement(blurred(graph, 1e-6), voxels)


def test_what_answers_otherwise_is_refused(graph):
    voxels = np.random.default_rng(0).random((1, *ROI), np.float32)
    with pytest.raises(ExportError, match=r"clearly differ .*, where 0\.1% may; run it in float32"):
        check_agreement(blurred(graph, 0.3), voxels)


@pytest.mark.skipif(not find_spec("openvino"), reason="OpenVINO is not installed")
def test_a_segmenter_is_held_against_float32_once(tmp_path, monkeypatch):
    try:
        segment = Segmenter(save_model(tmp_path / "m.onnx"), Choice("openvino", precision="bfloat16"))
    except MimzooError as error:
        pytest.skip(str(error))
    seen = []
    monkeypatch.setattr("mimzoo.deploy.models.check_agreement", lambda *given: seen.append(given) or "they agree")
    scan = save_scan(tmp_path / "a.nii", noise())
    segment(scan), segment(scan)
    assert len(seen) == 1 and seen[0][0] is segment.graph and segment.agreement == "they agree"
