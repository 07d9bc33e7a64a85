"""The benchmark of deployment, in its short form, with every engine that is installed here."""

import re
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[1] / "tools" / "bench_deploy.py"
# Each way loads MONAI or an engine in a process of its own; the allocator makes no difference to labels.
WAYS = ["monai", "loop", "mimzoo-cpu", "mimzoo", "mimzoo-bf16"]


def test_every_way_gives_the_labels_of_monai(tmp_path):
    words = ["--short", "--networks", "unetr", "--volume", "40", "32", "32", "--threads", "1", "--ways", *WAYS]
    done = subprocess.run(
        [sys.executable, str(TOOL), *words, "--work", str(tmp_path)], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| `([\w-]+)` \|.* (\d\.\d+) \((\d\.\d+)\) \|", done.stdout, re.MULTILINE)
    found = {name: float(lowest) for name, _, lowest in rows}
    # Not every processor computes in bfloat16.
    assert {*WAYS, "mimzoo-bf16"} == {*found, "mimzoo-bf16"}
    assert found.pop("mimzoo-bf16", 1.0) > 0.9 and min(found.values()) > 0.999
