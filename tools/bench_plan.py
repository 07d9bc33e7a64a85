"""Compare what `mimzoo plan` tells with what training takes, and estimate paper-size runs.

    python tools/bench_plan.py [--cards NAME ...]     trains a few steps of each card in processes of their own
    python tools/bench_plan.py --scale [--check]      writes the tables of docs/scale.md, or fails when they are others

A process computes a step once, so that libraries and kernels are there, forgets it, and is measured while it computes
two more. Memory is what is alive at once: glibc is told to give back at once what is freed. Beside it stands the whole
process as training runs, which keeps what is freed (`mimzoo.training.tune_allocator`), with libraries.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import torch
from bench_pretrain import machine, peak_memory
from make_docs import generate
from torch.utils.data import TensorDataset

from mimzoo.cards import override
from mimzoo.hub import find_model
from mimzoo.planning import flops, make_batch, make_loss, make_model, plan, schedule_of
from mimzoo.rehearsal import Way
from mimzoo.training import Job, make_accelerator, make_state, optimise, parameter_groups, tune_allocator

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
# Card, task, batch: what a machine with 8 GB can train.
MEASURED = (
    ("vit-mae-btcv", "pretraining", 4),
    ("swin-mae-btcv", "pretraining", 1),
    ("swin-simmim-hippocampus", "pretraining", 8),
    ("vit-simclr-hippocampus", "pretraining", 8),
    ("primus-mae-hippocampus", "pretraining", 8),
    ("resenc-mae-headneck", "pretraining", 2),
    ("van-simmim-hippocampus", "pretraining", 32),
    ("vit-mae-headneck-seg", "finetuning", 2),
    ("swin-mae-headneck-seg", "finetuning", 2),
    ("vit-mae-adni-cls", "finetuning", 1),
)
WAYS = [Way(bfloat16, checkpointing, gpu=False) for bfloat16 in (False, True) for checkpointing in (False, True)]


@dataclass(frozen=True)
class Gpu:
    """A device: peak in bfloat16, not sparse (FLOP/s), memory and its bandwidth (bytes, bytes/s), links (bytes/s)."""

    name: str
    peak: float
    memory: float
    bandwidth: float
    link: float


A100 = Gpu("A100 SXM 40 GB", 312e12, 40e9, 1.555e12, 300e9)
H100 = Gpu("H100 SXM 80 GB", 989e12, 80e9, 3.35e12, 450e9)
# Of the peak of an A100, see the table of what was sustained; where memory is waited for, bandwidth decides.
SHARE = 0.13
SHARES = {A100: SHARE, H100: round(SHARE * (H100.bandwidth / A100.bandwidth) / (H100.peak / A100.peak), 2)}
# Swin UNETR in nnU-Net on one A100 (Isensee et al. 2024, arXiv 2404.09556): 1000 epochs of 250 steps of two crops, each
# about as large as this one, in float16; GB by nvidia-smi.
SUSTAINED = ("swin-mae-btcv-seg", 128, 2, 250_000, 15, 13.1)
DEVICES = 8
# The part of a step that the exchange of gradients may take, were it not to overlap with the backward pass.
EXCHANGE = 0.1
SCALED = (
    ("vit-mae-btcv", "pretraining"),
    ("vit-simmim-btcv", "pretraining"),
    ("vit-simclr-btcv", "pretraining"),
    ("swin-mae-btcv", "pretraining"),
    ("swin-simmim-btcv", "pretraining"),
    ("swin-mae-btcv-seg", "finetuning"),
    ("vit-mae-brats", "pretraining"),
    ("vit-simmim-brats", "pretraining"),
    ("vit-simclr-brats", "pretraining"),
    ("swin-mae-brats", "pretraining"),
    ("swin-simmim-brats", "pretraining"),
    ("swin-mae-brats-seg", "finetuning"),
)


@dataclass(frozen=True)
class Scans:
    """A data set: how many scans of how many channels, voxels of one at most, and bytes that a stored voxel takes."""

    name: str
    scans: int
    channels: int
    size_mm: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    bytes: float

    @property
    def voxels(self) -> float:
        """Return the voxels of a channel of the largest scan."""
        x, y, z = (size / spacing for size, spacing in zip(self.size_mm, self.spacing_mm, strict=True))
        return x * y * z


# Bytes per voxel as measured on stores of CT and of MR without background, docs/benchmarks.md: 10.5 % and 36 % of 4.
CT, MR = 0.42, 1.44
STORES = (
    Scans("BTCV", 30, 1, (500, 500, 650), (1.5, 1.5, 2.0), CT),
    Scans("BraTS 2021, contrast-enhanced T1", 1251, 1, (240, 240, 155), (1.0, 1.0, 1.0), MR),
    Scans("BraTS 2021, four channels", 1251, 4, (240, 240, 155), (1.0, 1.0, 1.0), MR),
)


def scale_row(name: str, task: str) -> str:
    """Return the row of a card in the table of runs: operations, memory, hours and network on eight devices."""
    # Devices compute at the same time what a single one computes in parts.
    card = override(find_model(name), [f"{task}.accumulate=1"])
    recipe = schedule_of(card, task)
    devices = min(DEVICES, recipe.batch)
    found = plan(card, task, devices, [Way(bfloat16=True), Way(bfloat16=True, checkpointing=True)])
    whole, again = found.needs
    total, sent = found.flops * recipe.batch * recipe.steps, 2 * (devices - 1) / devices * whole.gradients
    hours = [total / (devices * share * gpu.peak) / 3600 for gpu, share in SHARES.items()]
    fastest = hours[1] * 3600 / recipe.steps
    cells = (
        *(f"`{name}`", f"{found.parameters.trained / 1e6:.1f} M", f"{recipe.steps} x {recipe.batch}"),
        f"{devices} x {found.crops}",
        *(flops(found.flops), flops(total)),
        *(f"{need.peak(found.crops, found.accumulate > 1) / 1e9:.1f}" for need in (whole, again)),
        *(f"{each:.3g}" for each in hours),
        *(f"{sent / 1e9:.2f}", f"{sent / (EXCHANGE * fastest) / 1e9:.1f}"),
    )
    return f"| {' | '.join(cells)} |"


def scale_table() -> str:
    head = (
        *("card", "parameters", "steps x batch", "GPUs x crops", "a crop", "all steps", "GB", "GB, checkpointing"),
        *("hours, A100", "hours, H100", "GB sent a step", "GB/s that suffice"),
    )
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*rows, *(scale_row(*each) for each in SCALED)])


def store_table() -> str:
    rows = ["| data | scans | voxels of a scan, at most | bytes per voxel | GB, at most |", "|---|---|---|---|---|"]
    for each in STORES:
        voxels = each.voxels * each.channels
        size = f"{each.scans * voxels * each.bytes / 1e9:.2g}"
        rows.append(f"| {each.name} | {each.scans} | {voxels / 1e6:.1f} M | {each.bytes} | {size} |")
    return "\n".join(rows)


def devices_table() -> str:
    head = ("GPU", "peak, bfloat16", "memory", "its bandwidth", "NVLink, each way", "share assumed", "sustained")
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for gpu, share in SHARES.items():
        cells = (
            *(gpu.name, f"{gpu.peak / 1e12:.0f} TFLOP/s", f"{gpu.memory / 1e9:.0f} GB"),
            *(f"{gpu.bandwidth / 1e12:.2f} TB/s", f"{gpu.link / 1e9:.0f} GB/s"),
            *(f"{share:.0%}", f"{share * gpu.peak / 1e12:.0f} TFLOP/s"),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def sustained_table() -> str:
    name, side, batch, steps, hours, seen = SUSTAINED
    card = override(find_model(name), [f"input.crop=[{side}, {side}, {side}]", f"finetuning.batch={batch}"])
    # Its norms keep half precision, as those of a CPU do here.
    found = plan(card, "finetuning", 1, [Way(bfloat16=True, gpu=False)])
    share = found.flops * batch * steps / (hours * 3600) / A100.peak
    return "\n".join(
        (
            "| network | steps x crops | hours | a crop | share of the peak | GB planned | GB seen |",
            "|---|---|---|---|---|---|---|",
            f"| Swin UNETR at {side} x {side} x {side} | {steps} x {batch} | {hours} | {flops(found.flops)} "
            f"| {share:.1%} | {found.needs[0].peak(batch, False) / 1e9:.1f} | {seen} |",
        )
    )


PARTS = {"devices": devices_table, "sustained": sustained_table, "runs": scale_table, "stores": store_table}


def real(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(shape) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)


def make_step(name: str, task: str, batch: int, way: Way) -> Callable[[], float]:
    """Return a function that trains a card by one more step, by the training loop itself."""
    precision = "bfloat16" if way.bfloat16 else "float32"
    changes = {"batch": batch, "accumulate": 1, "precision": precision, "checkpointing": str(way.checkpointing).lower()}
    card = override(find_model(name), [f"{task}.{key}={value}" for key, value in changes.items()])
    recipe, model = schedule_of(card, task), make_model(card, task)
    job = Job(
        folder=Path(),
        schedule=recipe,
        model=model,
        groups=parameter_groups(model, recipe.optimiser),
        data=TensorDataset(torch.zeros(1)),
        loss_of=make_loss(card, task),
        validate=lambda model: {},
        higher_is_better=False,
        title=name,
    )
    accelerator = make_accelerator(recipe)
    wrapped, state = make_state(job, accelerator)
    batches = repeat(make_batch(card, task, batch, real))
    return lambda: optimise(accelerator, wrapped, state, job, batches)


def measure(name: str, task: str, batch: int, way: Way) -> int:
    """Return the most bytes that two steps take at once, beyond those of a process that has done a step before."""
    make_step(name, task, batch, way)()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    step = make_step(name, task, batch, way)
    step()
    step()
    return peak_memory() - before


def measure_process(name: str, task: str, batch: int, way: Way) -> int:
    """Return the most bytes of a whole process that computes two steps, its memory allocated as training does."""
    tune_allocator()
    step = make_step(name, task, batch, way)
    step()
    step()
    return peak_memory()


def in_process(function: str, name: str, task: str, batch: int, way: Way) -> int:
    """Return what a function of this file returns in a process of its own."""
    # A GPU would hold what is to be measured.
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    # Blocks larger than this are given back as soon as they are freed.
    env |= {"MALLOC_MMAP_THRESHOLD_": "65536"} if function == "measure" else {}
    asked = json.dumps([function, name, task, batch, way.bfloat16, way.checkpointing])
    done = subprocess.run([sys.executable, __file__, "--child", asked], env=env, stdout=subprocess.PIPE, check=True)
    return int(done.stdout.splitlines()[-1])


def run_child(asked: str) -> None:
    function, name, task, batch, bfloat16, checkpointing = json.loads(asked)
    print(
        {"measure": measure, "measure_process": measure_process}[function](
            name, task, batch, Way(bfloat16, checkpointing)
        )
    )


def predict(name: str, task: str, batch: int, ways: list[Way]) -> list[int]:
    """Return the peak of a training in bytes, in each of these ways."""
    found = plan(override(find_model(name), [f"{task}.batch={batch}", f"{task}.accumulate=1"]), task, 1, ways)
    return [need.peak(batch, False) for need in found.needs]


def print_measured(cases: list[tuple[str, str, int]]) -> None:
    print(f"{machine()}\n\n| card | batch | computed in | planned, GB | measured, GB | difference | process, GB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name, task, batch in cases:
        for way, planned in zip(WAYS, predict(name, task, batch, WAYS), strict=True):
            found = in_process("measure", name, task, batch, way)
            whole = in_process("measure_process", name, task, batch, way)
            cells = (
                f"`{name}`",
                batch,
                way,
                f"{planned / 1e9:.3f}",
                f"{found / 1e9:.3f}",
                f"{planned / found - 1:+.0%}",
            )
            print(f"| {' | '.join(map(str, cells))} | {whole / 1e9:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", nargs="+", metavar="NAME", help="only these of the cards that are measured")
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        run_child(asked.child)
    elif asked.scale:
        fresh = generate(PAGE, PARTS)
        if asked.check and fresh != PAGE.read_text():
            raise SystemExit(f"{PAGE.name} is out of date: run python tools/bench_plan.py --scale\n\n{fresh}")
        PAGE.write_text(fresh)
        print(f"{PAGE.name} {'is up to date' if asked.check else 'written'}")
    else:
        print_measured([case for case in MEASURED if case[0] in (asked.cards or [each[0] for each in MEASURED])])


if __name__ == "__main__":
    main()
