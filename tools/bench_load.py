"""How long it takes to load a Swin UNETR of 62 million parameters, and how much memory, beside MONAI's own way.

    python tools/bench_load.py [--runs 5]

Both ways build the same network and give it the same weights from a file that the system has in its cache: MONAI's
class with `load_state_dict(torch.load(...))`, and `mimzoo.load` of a model folder with `model.safetensors`, whose
sha256 is checked. Each run is a process of its own; the clock starts when its imports are done, and its peak memory is
what it grew by from there on.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch

FEATURES, CLASSES, CROP = 48, 14, (96, 96, 96)
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
import os, torch
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

    from mimzoo.cards import find_card, override, read_card, update_card, write_card
    from mimzoo.models import build_model
    from mimzoo.runs import keep_weights

    torch.manual_seed(0)
    torch.save(SwinUNETR(in_channels=1, out_channels=CLASSES, feature_size=FEATURES).state_dict(), folder / "monai.pt")
    card = override(find_card("swin-mae-btcv-seg"), [])
    write_card(update_card(card, weights=None), folder / "swin")
    kept = keep_weights(read_card(folder / "swin"), folder / "swin", {"weights": build_model(card.block).state_dict()})
    return kept.block.weights.bytes / 2**20


def measure(code: str, folder: Path) -> tuple[float, float, float]:
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + code + USED, str(folder)], capture_output=True, text=True, check=True
    )
    seconds, loaded, used = map(float, done.stdout.split("MEASURED")[1].split())
    return seconds, loaded, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = prepare(folder)
        found = {"MONAI": [], "mimzoo": []}
        for number in range(runs + 1):
            for way, code in (("MONAI", MONAI), ("mimzoo", OURS)):
                measured = measure(code, folder)
                # The first run of each warms the system's cache.
                found[way] += [measured] if number else []
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}")
    print(f"weights {size:.0f} MiB\n")
    print("| way | s | slowest | peak memory after loading | after every weight was read |\n|---|---|---|---|---|")
    for way, rows in found.items():
        seconds, loaded, used = zip(*rows, strict=True)
        print(
            f"| {way} | {statistics.median(seconds):.3f} | {max(seconds):.3f} | "
            f"{statistics.median(loaded) / size:.2f} x | {statistics.median(used) / size:.2f} x |"
        )
    medians = {way: statistics.median(row[0] for row in rows) for way, rows in found.items()}
    print(f"\nmimzoo is {medians['MONAI'] / medians['mimzoo']:.1f} times as fast")


if __name__ == "__main__":
    main()
