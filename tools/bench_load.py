"""How long it takes to load a Swin UNETR of 62 million parameters, and how much memory, beside MONAI's own way.

    python tools/bench_load.py [--runs 5]

Both ways build the same network and give it the same weights from a file that the system has in its cache: MONAI's
class with `load_state_dict(torch.load(...))`, and `mimzoo.load` of a model folder with `model.safetensors`. Its content
is hashed when it is loaded first, and again only when anything about the file changed; both are shown. Each run is a
process of its own; the clock starts when its imports are done, and its peak memory is what it grew by from there on.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

FEATURES, CLASSES = 48, 14
PREPARE = """
import sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def memory(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) / 1024
def peak():
    return memory("VmHWM")
def begin():
    # From here on the kernel counts the peak anew.
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")
"""
MONAI = """
import torch
from monai.networks.nets import SwinUNETR
before, start = begin(), time.perf_counter()
model = SwinUNETR(in_channels=1, out_channels=14, feature_size=48)
model.load_state_dict(torch.load(folder / "monai.pt", weights_only=True))
"""
OURS = """
import torch
import mimzoo
from mimzoo.models import load
from mimzoo.registry import registry
registry()
import mimzoo_swin.encoder, mimzoo_seg.swin_unetr
before, start = begin(), time.perf_counter()
model = load(folder / "swin")
"""
USED = """
seconds = time.perf_counter() - start
loaded = peak() - before
total = sum(float(parameter.detach().sum()) for parameter in model.parameters())
print("MEASURED", seconds, loaded, peak() - before)
"""


def prepare(folder: Path) -> float:
    """Write both files with the same weights, and return their size in MB."""
    from monai.networks.nets import SwinUNETR

    from mimzoo.cards import find_card, read_card, update_card, write_card
    from mimzoo.models import build_model
    from mimzoo.runs import keep_weights

    torch.manual_seed(0)
    torch.save(SwinUNETR(in_channels=1, out_channels=CLASSES, feature_size=FEATURES).state_dict(), folder / "monai.pt")
    write_card(update_card(find_card("swin-mae-btcv-seg"), weights=None), folder / "swin")
    card = read_card(folder / "swin")
    kept = keep_weights(card, folder / "swin", {"weights": build_model(card.block).state_dict()})
    return kept.block.weights.bytes / 2**20


def measure(code: str, folder: Path, home: Path) -> tuple[float, float, float]:
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + code + USED, str(folder)],
        env={**os.environ, "MIMZOO_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, loaded, used = map(float, done.stdout.split("MEASURED")[1].split())
    return seconds, loaded, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    found = {"MONAI": [], "mimzoo, first": [], "mimzoo, later": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = prepare(folder)
        # A file that changed within the last two seconds is hashed every time.
        time.sleep(3)
        for number in range(runs + 1):
            for way, rows in found.items():
                home = folder / ("home" if "later" in way else f"home-{number}")
                measured = measure(MONAI if way == "MONAI" else OURS, folder, home)
                # The first run of each warms the system's cache.
                rows += [measured] if number else []
    print(f"{processor()}, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}; weights {size:.0f} MiB\n")
    print("| way | s | slowest | as fast as MONAI's | peak memory, loaded | and every weight read |")
    print("|---|---|---|---|---|---|")
    slow = statistics.median(row[0] for row in found["MONAI"])
    for way, rows in found.items():
        seconds, loaded, used = (sorted(column) for column in zip(*rows, strict=True))
        middle = [statistics.median(column) for column in (seconds, loaded, used)]
        share = f"{middle[1] / size:.2f} x weights | {middle[2] / size:.2f} x weights"
        print(f"| {way} | {middle[0]:.3f} | {seconds[-1]:.3f} | {slow / middle[0]:.1f} x | {share} |")


def processor() -> str:
    """Return what the system calls the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()
