"""A third party's package in three files: installed by pip, found, conforming, usable."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "example_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of a process that sees the package as pip installed it."""
    target = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*install, "--target", str(target), str(SOURCE)], check=True, timeout=120)
    return {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}


def run(installed, *command):
    return subprocess.run([sys.executable, *command], env=installed, capture_output=True, text=True, timeout=240)


def test_mimzoo_plugins_shows_it_with_its_distribution(installed):
    done = run(installed, "-m", "mimzoo", "plugins")
    assert done.returncode == 0, done.stderr
    assert any("example-mlp" in line and "mimzoo-example 1.0" in line for line in done.stdout.splitlines())


def test_it_conforms_by_the_command_that_the_docs_name(installed):
    page = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    (command,) = re.findall(r'python -c "(.*check_encoder.*)"', page)
    done = run(installed, "-c", command)
    assert done.returncode == 0, done.stderr


def test_it_pretrains_in_the_place_of_a_built_in_encoder(installed, tmp_path):
    code = (
        "from mimzoo.models import build_encoder, build_objective; from mimzoo.cards import find_card\n"
        "import torch; from mimzoo.recipes import Component\n"
        "card = find_card('vit-mae-phantom'); mine = Component(name='example-mlp')\n"
        "encoder = build_encoder(mine, 1, (16, 16, 16))\n"
        "seen = card.block.input.model_copy(update={'crop': (16, 16, 16)})\n"
        "objective = build_objective(card.block.pretraining, encoder, mine, seen)\n"
        "loss = objective(torch.randn(2, 1, 16, 16, 16), torch.Generator().manual_seed(0)).loss\n"
        "loss.backward(); print(loss.item())"
    )
    done = run(installed, "-c", code)
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) < 100
