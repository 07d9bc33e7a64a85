"""What is installed: code and cards in one distribution, the files of trained models in another."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
CARDS = "mimzoo_zoo/model_cards/"
# A machine that runs one model has no use for all others.
MOST_CODE_BYTES = 3_000_000


def files_of(project, folder):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", project]
    subprocess.run([*map(str, command), "-w", str(folder)], check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    with ZipFile(wheel) as archive:
        return {info.filename: info.file_size for info in archive.infolist()}


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    return files_of(ROOT, tmp_path_factory.mktemp("code"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return files_of(ROOT / "model_cards", tmp_path_factory.mktemp("weights"))


def test_the_code_has_every_plugin_and_card_and_no_weights(code):
    plugins = {path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").is_file()}
    assert plugins < {name.split("/")[0] for name in code if name.endswith("/__init__.py")}
    cards = {f"{CARDS}{path.parent.name}/README.md" for path in (ROOT / "model_cards").glob("*/README.md")}
    assert {name for name in code if name.startswith(CARDS)} == cards
    assert sum(code.values()) < MOST_CODE_BYTES


def test_the_weights_are_all_that_lies_beside_the_cards(weights):
    beside = {path for path in (ROOT / "model_cards").glob("*/*") if path.name != "README.md"}
    wanted = {CARDS + path.relative_to(ROOT / "model_cards").as_posix(): path.stat().st_size for path in beside}
    assert {name: size for name, size in weights.items() if not name.startswith("mimzoo_weights-")} == wanted


def test_both_are_of_one_version(code, weights):
    (first,) = {name.split("/")[0].removesuffix(".dist-info") for name in code if name.endswith("dist-info/RECORD")}
    (second,) = {name.split("/")[0].removesuffix(".dist-info") for name in weights if name.endswith("dist-info/RECORD")}
    assert first.removeprefix("mimzoo-") == second.removeprefix("mimzoo_weights-")
