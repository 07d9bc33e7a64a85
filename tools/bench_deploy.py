"""Time whole scans beside MONAI's sliding window in torch and beside a plain loop over ONNX Runtime, weights alike.

    python tools/bench_deploy.py [--networks unetr swin-unetr-24 swin-unetr-48 blend] [--volume 192 192 160]
                                 [--threads 2] [--ways NAME ...] [--work FOLDER] [--short]

Networks are MONAI's own, 14 classes, freshly initialised and imported into mimzoo, so that all ways compute with the
very same weights; the plain loop runs the file that mimzoo exports. The volume is a CT-like phantom, prepared
beforehand; windows are 96^3 voxels, overlap 0.5, Gaussian weights. `blend` has no network: every window is answered
with a copy of the same logits, which leaves what a sliding window costs by itself.

Each way is a process of its own. The clock starts after one window, by which the network has taken its memory, and
stops when the labels are there. Memory is the peak of the process, and by how much that is over what it held when the
clock started. Dice is the mean over the classes that MONAI's labels in float32 have, the lowest of them in brackets.
`--ways` measures some anew; with `--work` the others are those measured there before. `--short` is a miniature.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimzoo.deploy import Choice
from mimzoo.deploy.graph import Graph
from mimzoo.grids import Floats, Masks
from mimzoo.sliding import gaussian, slide
from mimzoo.sweep import Layout, Sweep, places

OVERLAP, LARGEST_DRAWN = 0.5, 200
Predict = Callable[[Floats], NDArray[Any]]


@dataclass(frozen=True)
class Way:
    """Who slides the window, in which precision, and whether freed memory stays in the process (glibc's settings)."""

    owner: str
    engine: str
    precision: str
    tuned: bool = False

    def __str__(self) -> str:
        return f"{self.owner}, {self.engine}, {self.precision}{', tuned allocator' if self.tuned else ''}"


WAYS = {
    "monai": Way("MONAI", "torch", "float32"),
    "monai-tuned": Way("MONAI", "torch", "float32", True),
    "monai-bf16": Way("MONAI", "torch, flash attention", "bfloat16", True),
    "loop": Way("plain loop", "ONNX Runtime", "float32"),
    "mimzoo-cpu": Way("mimzoo", "ONNX Runtime", "float32"),
    "mimzoo": Way("mimzoo", "OpenVINO", "float32"),
    "mimzoo-bf16": Way("mimzoo", "OpenVINO", "bfloat16"),
}
# Without a network there are no engines and no precisions to tell apart.
BLENDS = ("monai", "monai-tuned", "loop", "mimzoo")
TUNED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 33), "MALLOC_TRIM_THRESHOLD_": str(1 << 34), "MALLOC_TOP_PAD_": "268435456"}


@dataclass(frozen=True)
class Sizes:
    """Of the window, and of the networks: their width, depth and classes."""

    roi: int = 96
    classes: int = 14
    short: bool = False


FULL, SHORT = Sizes(), Sizes(roi=32, classes=3, short=True)
# Each builds MONAI's network; its importer, and the importer's options.
SWIN = {"merge": "fixed"}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "unetr": ("monai-unetr", {}),
    "swin-unetr-24": ("monai-swinunetr", SWIN),
    "swin-unetr-48": ("monai-swinunetr", SWIN),
}


def build(network: str, sizes: Sizes) -> Any:
    """Return MONAI's network, freshly initialised."""
    import torch
    from monai.networks.nets import UNETR, SwinUNETR

    torch.manual_seed(0)
    if network.startswith("swin"):
        size = 12 if sizes.short else int(network.rpartition("-")[2])
        return SwinUNETR(1, sizes.classes, feature_size=size).eval()
    narrow = {"hidden_size": 64, "mlp_dim": 128, "num_heads": 2, "feature_size": 4} if sizes.short else {}
    return UNETR(1, sizes.classes, (sizes.roi,) * 3, **narrow).eval()


def make_model(network: str, sizes: Sizes, folder: Path) -> None:
    """Write a network's weights, and the ONNX file that mimzoo makes of them, unless they are there."""
    if (folder / "model.onnx").is_file() or network == "blend":
        return
    import torch

    from mimzoo.export import onnx_bytes
    from mimzoo.importing import import_checkpoint
    from mimzoo.models import load_card

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(build(network, sizes).state_dict(), folder / "monai.pt")
    format, options = NETWORKS[network]
    with tempfile.TemporaryDirectory() as home:
        os.environ["MIMZOO_HOME"] = home
        options = {**options, "crop": (sizes.roi,) * 3, **({"heads": 2} if sizes.short and network == "unetr" else {})}
        card = import_checkpoint(format, folder / "monai.pt", network, options).card
        (folder / "model.onnx").write_bytes(onnx_bytes(load_card(card), card))


def make_volume(shape: tuple[int, int, int], path: Path) -> None:
    """Write a prepared CT-like phantom (1, X, Y, Z) whose air is exactly 0, unless it is there.

    A large one is drawn on a coarser grid, and each of its voxels repeated.
    """
    if path.is_file():
        return
    from mimzoo.phantoms import make_phantom
    from mimzoo.recipes import WindowHU
    from mimzoo.volume import normalise

    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = max(1, round(max(shape) / LARGEST_DRAWN))
    x, y, z = (-(-length // coarse) for length in shape)
    voxels = make_phantom(0, (x, y, z))[0].voxels
    for axis, length in enumerate(shape, start=1):
        voxels = voxels.repeat(coarse, axis).take(range(length), axis)
    np.save(path, normalise(voxels, WindowHU(mode="window_hu", window_hu=(-175, 250))))


def open_monai(way: Way, network: str, sizes: Sizes, folder: Path, threads: int) -> Callable[[Floats], Masks]:
    """Return MONAI's sliding window over its network as a function of a volume (1, X, Y, Z)."""
    import torch
    from monai.inferers import sliding_window_inference

    torch.set_num_threads(threads)
    roi = (sizes.roi,) * 3
    if network == "blend":
        answer = torch.from_numpy(some_logits(sizes))
        model: Callable[[Any], Any] = lambda windows: answer.clone()  # noqa: E731
    else:
        model = build(network, sizes)
        model.load_state_dict(torch.load(folder / "monai.pt", weights_only=True))
        for module in model.modules():
            if way.precision == "bfloat16" and hasattr(module, "use_flash_attention"):
                module.use_flash_attention = True

    @torch.inference_mode()
    def run(voxels: Floats) -> Masks:
        with torch.autocast("cpu", torch.bfloat16, enabled=way.precision == "bfloat16"):
            volume = torch.from_numpy(voxels)[None]
            logits = sliding_window_inference(volume, roi, 1, model, OVERLAP, mode="gaussian")
            return logits.argmax(1)[0].to(torch.uint8).numpy()

    return run


def open_loop(way: Way, network: str, sizes: Sizes, folder: Path, threads: int) -> Callable[[Floats], Masks]:
    """Return what one writes around an ONNX file first: sums of all logits and weights, divided in the end."""
    predict, sweep = plain_session(network, sizes, folder, threads), Sweep((sizes.roi,) * 3, OVERLAP)

    def run(voxels: Floats) -> Masks:
        weight, shape = gaussian(sweep.roi), voxels.shape[1:]
        sums, weights = np.zeros((sizes.classes, *shape), np.float32), np.zeros(shape, np.float32)
        for corner in Layout(shape, sweep).corners:
            place = places(corner, sweep.roi)
            sums[(slice(None), *place)] += predict(voxels[(slice(None), *place)][None])[0] * weight
            weights[place] += weight
        return (sums / weights).argmax(0).astype(np.uint8)

    return run


def plain_session(network: str, sizes: Sizes, folder: Path, threads: int) -> Predict:
    if network == "blend":
        return copies(sizes)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return lambda windows: session.run(None, {"volume": np.ascontiguousarray(windows)})[0]


def open_ours(way: Way, network: str, sizes: Sizes, folder: Path, threads: int) -> Callable[[Floats], Masks]:
    """Return mimzoo's sliding window over an engine."""
    if network == "blend":
        predict = copies(sizes)
    else:
        engine = "openvino" if way.engine == "OpenVINO" else "cpu"
        choice = Choice(engine, threads, "bfloat16" if way.precision == "bfloat16" else "float32")
        predict = Graph(folder / "model.onnx", choice).predict
    sweep = Sweep((sizes.roi,) * 3, OVERLAP, threads=threads)
    return lambda voxels: slide(predict, voxels, sweep, sizes.classes)


def some_logits(sizes: Sizes) -> Floats:
    return np.random.default_rng(0).normal(size=(1, sizes.classes, *(sizes.roi,) * 3)).astype(np.float32)


def copies(sizes: Sizes) -> Predict:
    """Return a network that answers every window with a copy of the same logits."""
    logits = some_logits(sizes)
    return lambda windows: logits.copy()


OPENERS = {"MONAI": open_monai, "plain loop": open_loop, "mimzoo": open_ours}


def serve(name: str, network: str, sizes: Sizes, folder: Path, scan: Path, labels: Path, threads: int) -> None:
    """Print what a way takes for a scan, and write its labels."""
    way, voxels = WAYS[name], np.load(scan)
    begun = time.perf_counter()
    run = OPENERS[way.owner](way, network, sizes, folder, threads)
    run(np.ascontiguousarray(voxels[:, : sizes.roi, : sizes.roi, : sizes.roi]))
    ready = time.perf_counter() - begun
    # From here on the kernel counts the peak anew.
    Path("/proc/self/clear_refs").write_text("5")
    held, begun, cpu = peak_memory(), time.perf_counter(), time.process_time()
    found = run(voxels)
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu
    peak = peak_memory()
    np.save(labels, found)
    measured = {"ready": ready, "seconds": seconds, "cpu_seconds": cpu_seconds, "peak": peak, "over": peak - held}
    print(json.dumps(measured))


def peak_memory() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def measure(name: str, network: str, asked: argparse.Namespace, scan: Path) -> dict[str, float] | None:
    """Return what a way takes, in a process of its own, or None where it cannot be had here."""
    labels = labels_of(asked.work, network, scan, name)
    labels.parent.mkdir(parents=True, exist_ok=True)
    words = [name, network, *map(str, (asked.work / network, scan, labels))]
    command = [sys.executable, __file__, "--serve", *words, "--threads", str(asked.threads)]
    threads = {key: str(asked.threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {**os.environ, **threads, **(TUNED if WAYS[name].tuned else {})}
    done = subprocess.run([*command, *(["--short"] if asked.short else [])], env=environment, capture_output=True)
    if done.returncode:
        print(f"{WAYS[name]}: {done.stderr.decode().strip().splitlines()[-1]}", file=sys.stderr)
        return None
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    labels.with_suffix(".json").write_text(json.dumps(measured))
    return measured


def labels_of(work: Path, network: str, scan: Path, name: str) -> Path:
    return work / f"{network}-{scan.stem}" / f"{name}.npy"


def known(name: str, network: str, work: Path, scan: Path) -> dict[str, float] | None:
    """Return what a way was measured to take before, None where it was not."""
    path = labels_of(work, network, scan, name).with_suffix(".json")
    return json.loads(path.read_text()) if path.is_file() else None


def agreement(ours: Masks, theirs: Masks) -> str:
    """Return the mean Dice over the classes that are in `theirs`, and the lowest."""
    found = []
    for value in np.unique(theirs):
        one, other = ours == value, theirs == value
        found.append(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))
    return f"{np.mean(found):.5f} ({min(found):.5f})"


def print_table(network: str, taken: Mapping[str, dict[str, float]], work: Path, scan: Path) -> None:
    bases, first = [name for name in taken if not name.startswith("mimzoo")], next(iter(taken))
    ratios = " | ".join(f"as fast as `{name}`" for name in bases)
    print(f"| way | s | {ratios} | CPU s | peak, GB | over the network, MB | Dice with `{first}` | ready, s |")
    print("|---" * (7 + len(bases)) + "|")
    theirs = np.load(labels_of(work, network, scan, first))
    for name, found in taken.items():
        faster = [f"{taken[base]['seconds'] / found['seconds']:.2f}" for base in bases]
        dice = agreement(np.load(labels_of(work, network, scan, name)), theirs)
        memory = f"{found['peak'] / 1e9:.2f} | {found['over'] / 1e6:.0f}"
        cells = [f"{found['seconds']:.1f}", *faster, f"{found['cpu_seconds']:.1f}", memory, dice]
        print(f"| `{name}` | {' | '.join(cells)} | {found['ready']:.1f} |")


def machine(threads: int) -> str:
    """Return a line about processor, threads and versions."""
    from datetime import date
    from importlib.metadata import version

    from bench_pretrain import processor

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "monai", "onnxruntime", "openvino"))
    return f"{processor()}, cores {os.cpu_count()}, threads {threads}, {packages}, {date.today()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=[*NETWORKS, "blend"], default=[*NETWORKS, "blend"])
    parser.add_argument("--volume", type=int, nargs=3, default=(192, 192, 160))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--work", type=Path, default=Path("runs/bench-deploy"))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--serve", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    sizes = SHORT if asked.short else FULL
    if asked.serve:
        name, network, *paths = asked.serve
        folder, scan, labels = map(Path, paths)
        return serve(name, network, sizes, folder, scan, labels, asked.threads)
    print(machine(asked.threads), *(f"`{name}`: {way}" for name, way in WAYS.items()), sep="\n")
    scan = asked.work / f"{'x'.join(map(str, asked.volume))}.npy"
    make_volume(tuple(asked.volume), scan)
    for network in asked.networks:
        make_model(network, sizes, asked.work / network)
        taken: dict[str, dict[str, float]] = {}
        for name in BLENDS if network == "blend" else WAYS:
            if name in asked.ways:
                found = measure(name, network, asked, scan)
            else:
                found = known(name, network, asked.work, scan)
            if found is not None:
                taken[name] = found
        print(f"\n`{network}`, {' x '.join(map(str, asked.volume))} voxels:\n")
        if taken:
            print_table(network, taken, asked.work, scan)
    return None


if __name__ == "__main__":
    main()
