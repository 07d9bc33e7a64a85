"""A package written by `mimzoo plugin new`: pip installs it, mimzoo finds it, its own tests pass."""

import os
import subprocess
import sys

import pytest

from mimzoo.errors import PluginError
from mimzoo.scaffold import write_plugin


def run(env, *command):
    return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=240)


def test_a_new_plugin_installs_is_found_and_passes_its_own_tests(tmp_path):
    made = run({**os.environ}, "-m", "mimzoo", "plugin", "new", "axial-mixer", "--out", str(tmp_path))
    assert made.returncode == 0, made.stderr
    folder, site = tmp_path / "axial-mixer", tmp_path / "site"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["axial-mixer"]
    install = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
    done = run({**os.environ}, "-m", *install, str(folder))
    assert done.returncode == 0, done.stderr
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    listed = run(env, "-m", "mimzoo", "plugins")
    assert any("axial-mixer" in line and "axial-mixer 0.1.0" in line for line in listed.stdout.splitlines())
    tested = run(env, "-m", "pytest", "-q", "--rootdir", str(folder), str(folder / "tests"))
    assert "2 passed" in tested.stdout, tested.stdout


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("My Encoder", "'My Encoder' is no plugin name: small letters, digits and dashes; 'my-encoder' is"),
        ("vit-base", "an encoder is called 'vit-base' already"),
        ("json", "a module that Python has already"),
        ("there", "is there already; choose another name"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_leaves_nothing(tmp_path, name, sentence):
    (tmp_path / "there").mkdir()
    with pytest.raises(PluginError, match=sentence):
        write_plugin(name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
