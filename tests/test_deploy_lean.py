"""What deployment leaves unimported: torch always, ONNX Runtime until a model is opened."""

import subprocess
import sys
from pathlib import Path

import pytest
from thresholds import linear_graph, metadata, noise, save_model, save_scan

from mimzoo.tasks import Target


def loaded(code):
    """Which heavy packages are in memory after `code` ran in a fresh interpreter."""
    show = "\nimport sys; print('HEAVY', *{'torch', 'monai', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code + show], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    return set(done.stdout.split("HEAVY")[1].split())


def test_importing_deploy_loads_neither_torch_nor_onnx_runtime():
    assert loaded("import mimzoo.deploy") == set()


@pytest.fixture
def scan(tmp_path):
    return str(save_scan(tmp_path / "a.nii.gz", noise()))


def test_segmenting_needs_no_torch(scan, tmp_path):
    model, out = str(save_model(tmp_path / "m.onnx")), tmp_path / "out"
    code = f"from mimzoo.deploy import segment_files; segment_files({model!r}, [{scan!r}], {str(out)!r})"
    assert loaded(code) == {"onnxruntime"}
    assert (out / "a.nii.gz").is_file()


def test_telling_of_scans_needs_no_torch(scan, tmp_path):
    about = metadata(labels=None, target=Target(column="age"))
    model = str(save_model(tmp_path / "m.onnx", about, graph=linear_graph([[60]], [20], of_scan=True)))
    code = f"from mimzoo.deploy import predict_files; assert predict_files({model!r}, [{scan!r}])[0]"
    assert loaded(code) == {"onnxruntime"}


def test_the_check_for_torch_can_fail():
    assert "torch" in loaded("import mimzoo.deploy, torch")
