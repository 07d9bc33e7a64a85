"""Estimate paper-size runs, and write the tables of `docs/scale.md` but for the measured ones.

    python tools/make_scale.py [--check]

With --check nothing is written, and it fails when a table on the page is another. What is assumed stands on the page.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from make_docs import generate

from mimzoo.cards import override
from mimzoo.hub import find_model
from mimzoo.planning import Need, flops, plan, schedule_of
from mimzoo.rehearsal import Way

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"


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
# Seconds that a processor takes to tell a GPU of one operation: assumed.
LAUNCH = 10e-6
# Clipping reads the gradients twice and writes them; AdamW reads weights, gradients and two means, and writes three.
PASSES = 10
# Links between nodes, bytes/s: a port of InfiniBand HDR (200 Gbit/s), Ethernet of 10 Gbit/s.
INFINIBAND, ETHERNET = 25e9, 1.25e9
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


@dataclass(frozen=True)
class Step:
    """A step on each of several devices: operations of its crops, what launches them, parameters and bytes sent."""

    flops: float
    operations: int
    gradients: int
    sent: float

    def seconds(self, gpu: Gpu, link: float) -> float:
        """Return how long the step takes, the exchange of gradients not overlapping with anything."""
        computing = max(self.flops / (SHARES[gpu] * gpu.peak), self.operations * LAUNCH)
        return computing + PASSES * self.gradients / gpu.bandwidth + self.sent / link


def step_of(need: Need, crops: int, flops: int, devices: int) -> Step:
    """Return the step of a plan; in a ring each device sends its gradients twice, but for its own share."""
    return Step(flops * crops, len(need.more.alive), need.gradients, 2 * (devices - 1) / devices * need.gradients)


def table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [" | ".join(head), "|".join(["---"] * len(head)), *(" | ".join(map(str, row)) for row in rows)]
    return "\n".join(f"|{line}|" if line.startswith("---") else f"| {line} |" for line in lines)


def rounded(value: float) -> str:
    """Return a number to two digits."""
    return f"{float(f'{value:.2g}'):g}"


def scale_row(name: str, task: str) -> tuple[object, ...]:
    """Return the row of a card in the table of runs: operations, memory, hours and network on eight devices."""
    # Devices compute at the same time what a single one computes in parts.
    card = override(find_model(name), [f"{task}.accumulate=1"])
    recipe = schedule_of(card, task)
    devices = min(DEVICES, recipe.batch)
    found = plan(card, task, devices, [Way(bfloat16=True), Way(bfloat16=True, checkpointing=True)])
    whole = found.needs[0]
    step = step_of(whole, found.crops, found.flops, devices)
    taken = [step.seconds(gpu, gpu.link) for gpu in (A100, H100)]
    taken += [step.seconds(H100, link) for link in (INFINIBAND, ETHERNET)]
    return (
        *(f"`{name}`", f"{found.parameters.trained / 1e6:.1f} M", f"{recipe.steps} x {recipe.batch}"),
        *(f"{devices} x {found.crops}", flops(found.flops)),
        *(f"{need.peak(found.crops, False) / 1e9:.1f}" for need in found.needs),
        *(rounded(seconds * recipe.steps / 3600) for seconds in taken),
        *(rounded(recipe.batch / taken[1]), f"{step.sent / 1e9:.2f}"),
    )


def runs_table() -> str:
    head = (
        *("card", "parameters", "steps x batch", "GPUs x crops", "a crop", "GB", "GB, checkpointing"),
        *("hours, A100", "hours, H100", "over InfiniBand", "over Ethernet", "crops/s, H100", "GB sent a step"),
    )
    return table(head, [scale_row(*each) for each in SCALED])


def stores_table() -> str:
    rows = []
    for each in STORES:
        voxels = each.voxels * each.channels
        size = f"{each.scans * voxels * each.bytes / 1e9:.2g}"
        rows.append((each.name, each.scans, f"{voxels / 1e6:.1f} M", each.bytes, size))
    return table(("data", "scans", "voxels of a scan, at most", "bytes per voxel", "GB, at most"), rows)


def devices_table() -> str:
    head = ("GPU", "peak, bfloat16", "memory", "its bandwidth", "NVLink, each way", "share assumed", "sustained")
    rows = [
        (
            *(gpu.name, f"{gpu.peak / 1e12:.0f} TFLOP/s", f"{gpu.memory / 1e9:.0f} GB"),
            *(f"{gpu.bandwidth / 1e12:.2f} TB/s", f"{gpu.link / 1e9:.0f} GB/s"),
            *(f"{share:.0%}", f"{share * gpu.peak / 1e12:.0f} TFLOP/s"),
        )
        for gpu, share in SHARES.items()
    ]
    return table(head, rows)


def sustained_table() -> str:
    name, side, batch, steps, hours, seen = SUSTAINED
    card = override(find_model(name), [f"input.crop=[{side}, {side}, {side}]", f"finetuning.batch={batch}"])
    # Its norms keep half precision, as those of a CPU do here.
    found = plan(card, "finetuning", 1, [Way(bfloat16=True, gpu=False)])
    share = found.flops * batch * steps / (hours * 3600) / A100.peak
    row = (
        *(f"Swin UNETR at {side} x {side} x {side}", f"{steps} x {batch}", hours, flops(found.flops), f"{share:.1%}"),
        *(f"{found.needs[0].peak(batch, False) / 1e9:.1f}", seen),
    )
    return table(("network", "steps x crops", "hours", "a crop", "share of the peak", "GB planned", "GB seen"), [row])


PARTS = {"devices": devices_table, "sustained": sustained_table, "runs": runs_table, "stores": stores_table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    fresh = generate(PAGE, PARTS)
    if asked.check and fresh != PAGE.read_text():
        raise SystemExit(f"{PAGE.name} is out of date: run python tools/make_scale.py\n\n{fresh}")
    if not asked.check:
        PAGE.write_text(fresh)
    print(f"{PAGE.name} {'is up to date' if asked.check else 'written'}")


if __name__ == "__main__":
    main()
