"""The README's commands and lines do what it says, where they need no long training."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from scans import make_pair, save

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(start):
    """The indented block of the README that begins with a line, as a script."""
    (block,) = re.findall(rf"^    {re.escape(start)}.*\n(?:(?:    .*)?\n)*", README, re.MULTILINE)
    return block


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def environment(tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    unset = ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_ENDPOINT")
    kept = {key: value for key, value in os.environ.items() if key not in unset}
    homes = {"HF_HOME": str(tmp_path / "here" / "hf"), "MIMZOO_HOME": str(tmp_path / "here" / "mimzoo")}
    return {**kept, **homes, "PATH": path, "OMP_NUM_THREADS": "1"}


def test_what_is_published_loads_in_another_environment(tmp_path):
    script = commands("python tests/hub_server.py").replace("8080", str(free_port())).replace("/tmp/there", "$THERE")
    env = {**environment(tmp_path), "THERE": str(tmp_path / "there")}
    done = subprocess.run(["bash", "-ec", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("148 tensors loaded") == 2
    assert "dry run: hf://me/vit-mae-hippocampus@v1" in done.stdout
    assert "published: hf://me/vit-mae-hippocampus@v1" in done.stdout
    assert (tmp_path / "there" / "mimzoo" / "models" / "hippocampus" / "model.safetensors").is_file()


def test_the_lines_on_loading_run(tmp_path):
    (code,) = re.findall(r"^## Loading\n\n```python\n(.*?)```", README, re.MULTILINE | re.DOTALL)
    for seed, name in enumerate(("t1", "t2")):
        save(tmp_path / f"{name}.nii.gz", make_pair(seed, (36, 50, 40))[0])
    done = subprocess.run(
        [sys.executable, "-c", f"import mimzoo\n{code}"],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "adapted encoder.patch.weight" in done.stdout and "CC-BY-SA-4.0" in done.stdout
