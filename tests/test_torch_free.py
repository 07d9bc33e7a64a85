"""Deployment where torch is not: an exported file, a scan, numpy, nibabel and ONNX Runtime."""

import os
import subprocess
import sys

import numpy as np
import pytest

from mimzoo.cards import override
from mimzoo.export import export
from mimzoo.finetune import finetune
from mimzoo.volume import read_labels, read_scan

# A module of this name, first on the path, stands for an environment in which torch is not installed.
ABSENT = "raise ModuleNotFoundError(f'No module named {__name__!r}', name=__name__)\n"


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory):
    """The environment of a process that cannot import torch or anything else of the training side."""
    folder = tmp_path_factory.mktemp("absent")
    for name in ("torch", "monai", "accelerate", "onnx", "blosc2", "matplotlib"):
        (folder / f"{name}.py").write_text(ABSENT)
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.fixture
def without_hub(tmp_path):
    """The environment of a process that has no client of the Hub."""
    # None in sys.modules is what hides a module from `import` and `find_spec` alike.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['huggingface_hub'] = None\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


@pytest.fixture
def exported(tiny_segmenter, phantoms, tmp_path):
    """An exported segmenter."""
    learning = ["finetuning.steps=40", "finetuning.validate_every=20", "finetuning.optimiser.lr=0.01"]
    finetune(override(tiny_segmenter, learning), phantoms, tmp_path / "seg")
    return export(tmp_path / "seg")[0]


def run(environment, *arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_scan_of_another_orientation_is_segmented_in_its_own_grid(exported, without_torch, data_root, tmp_path):
    scan = data_root / "fixtures" / "spinalcord" / "images" / "t2w.nii.gz"
    done = run(without_torch, "-m", "mimzoo", "segment", exported, scan, "-o", tmp_path / "masks")
    assert done.returncode == 0, done.stderr
    mask, seen = read_labels(tmp_path / "masks" / "t2w.nii.gz"), read_scan(scan)
    assert mask.voxels.shape == seen.grid.shape == (60, 55, 52)
    assert np.array_equal(mask.grid.affine, seen.grid.affine)
    assert mask.names[1] == "Liver"


def test_what_needs_torch_says_how_to_install_it(without_torch, tmp_path):
    done = run(without_torch, "-m", "mimzoo", "pretrain", "vit-mae-phantom", "--data", tmp_path)
    assert done.returncode == 1
    assert "pip install 'mimzoo[train]'" in done.stderr and "Traceback" not in done.stderr


def test_torch_is_really_out_of_reach(without_torch):
    assert "No module named 'torch'" in run(without_torch, "-c", "import torch").stderr


def test_what_needs_the_hub_says_how_to_install_its_client_and_nothing_else_asks_for_it(without_hub, tmp_path):
    done = run(without_hub, "-m", "mimzoo", "pull", "hf://org/name@v1")
    assert done.returncode == 1
    assert "pip install 'mimzoo[hub]'" in done.stderr and "Traceback" not in done.stderr
    code = "from mimzoo.hub import HubReference, cached; print(cached(HubReference('org/name', 'v1')))"
    assert run(without_hub, "-c", code).stdout == "None\n"
    assert "vit-mae-hippocampus" in run(without_hub, "-m", "mimzoo", "list").stdout
