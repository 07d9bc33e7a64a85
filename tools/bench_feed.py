"""Time the feed of training: crops from the prepared store beside MONAI's PersistentDataset and CacheDataset.

python tools/bench_feed.py DATA/headneck-ct [--only crops|memory|space|prepare] [--workers 0 2] [--short]
python tools/bench_feed.py drawn --folder FOLDER --only prepare

`drawn` stands for CTs of 512 x 512 x 300 voxels, which are drawn first. All feeds prepare scans alike (RAS+, spacing,
HU window), keep them in their own way, and give a loader batches of random crops. Each is a process of its own; they
take turns, and a round is as long for each. Scans are drawn and prepared before anything is timed; with `--folder` they
are kept there for the next run. All files are in the system cache, which spares PersistentDataset, whose files are
several times as large, the most.
"""

import argparse
import datetime
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_pretrain import peak_memory, processor
from torch.utils.data import DataLoader, RandomSampler

from mimzoo.data.crops import CropDataset
from mimzoo.data.datasets import Dataset, read_dataset
from mimzoo.data.store import Store, prepare_dataset
from mimzoo.grids import resample_linear
from mimzoo.nifti import write_voxels
from mimzoo.phantoms import make_phantom
from mimzoo.recipes import Input, WindowHU

DRAWN, SHAPE, SCANS = "drawn", (512, 512, 300), 4
WINDOW = WindowHU(mode="window_hu", window_hu=(-250, 500))
# By data: what a network sees, and the crops of a batch.
LOOKS = {
    DRAWN: (Input(channels=("CT",), spacing_mm=(0.65, 0.65, 1.0), intensity=WINDOW, crop=(96, 96, 96)), 2),
    "scans": (Input(channels=("CT",), spacing_mm=(4.6875, 4.6875, 3.0), intensity=WINDOW, crop=(48, 48, 48)), 4),
}
STORE, PERSISTENT, CACHE, UNCOPIED = (
    *("mimzoo's store", "PersistentDataset", "CacheDataset"),
    "CacheDataset, `copy_cache=False`",
)
FEEDS = (STORE, PERSISTENT, CACHE, UNCOPIED)
ENDLESS = 1_000_000


@dataclass(frozen=True)
class Plan:
    """The scans, what is seen of them in how large batches, and where they are prepared."""

    scans: Dataset
    look: Input
    batch: int
    folder: Path

    def few(self, cases: int) -> "Plan":
        """Return the plan with the first cases alone."""
        return replace(self, scans=replace(self.scans, training=self.scans.training[:cases], unlabelled=()))

    @property
    def raw(self) -> int:
        """Return the bytes of the prepared scans as float32."""
        return sum(4 * int(np.prod(case.grid.shape)) for case in prepared(self).cases("training"))


def draw_scans(folder: Path, count: int) -> Dataset:
    """Return drawn CTs: torsos of few voxels, interpolated, with the noise of thin slices everywhere, as int16."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"drawn_{number}.nii.gz"
        if path.exists():
            continue
        scan, _ = make_phantom(number, (128, 128, 75), (2.6, 2.6, 4.0))
        shape = scan.grid.shape
        finer = [mm * (n - 1) / (m - 1) for mm, n, m in zip(scan.grid.spacing_mm, shape, SHAPE, strict=True)]
        voxels, grid = resample_linear(scan.voxels, scan.grid, finer)
        voxels += 15 * np.random.default_rng(number).standard_normal(voxels.shape, np.float32)
        write_voxels(path, np.clip(voxels[0], -1024, 3071).round().astype(np.int16), grid)
    whole = read_dataset(folder)
    return replace(whole, training=whole.unlabelled[:count], unlabelled=())


# --- feeds ------------------------------------------------------------------------------------------------------------


def prepared(plan: Plan, workers: int = 1) -> Store:
    return prepare_dataset(plan.scans, plan.look, None, plan.folder / "store", splits=("training",), workers=workers)


def monai_steps(look: Input) -> tuple[list[Any], list[Any]]:
    """Return MONAI's transforms that are kept, and those of each crop."""
    from monai import transforms as monai

    low, high = WINDOW.window_hu
    kept = [
        monai.LoadImaged("image"),
        monai.EnsureChannelFirstd("image"),
        monai.Orientationd("image", "RAS"),
        monai.ScaleIntensityRanged("image", low, high, 0, 1, clip=True),
        monai.Spacingd("image", look.spacing_mm),
        monai.SpatialPadd("image", look.crop),
        # Without the history of transforms, which takes time to collate.
        monai.EnsureTyped("image", track_meta=False),
    ]
    return kept, [monai.RandSpatialCropd("image", look.crop, random_size=False)]


def monai_feed(name: str, plan: Plan) -> Any:
    from monai.data import CacheDataset, PersistentDataset
    from monai.transforms import Compose

    files = [{"image": str(case.image)} for case in plan.scans.training]
    kept, random = monai_steps(plan.look)
    if name == PERSISTENT:
        return PersistentDataset(files, Compose([*kept, *random]), plan.folder / "persistent")
    # Taken from what PersistentDataset has on disk, for preparing anew would only make the start longer.
    disk = PersistentDataset(files, Compose(kept), plan.folder / "persistent")
    cached = CacheDataset([], Compose([*kept, *random]), copy_cache=name == CACHE, progress=False)
    cached.data, cached.cache_num, cached._cache = files, len(files), [disk[n] for n in range(len(files))]
    return cached


def batches(name: str, plan: Plan, workers: int) -> Iterator[Any]:
    """Return endless batches of random crops of a feed."""
    if name == STORE:
        crops = CropDataset(prepared(plan).cases("training"), plan.look.crop, ENDLESS, 0)
        return iter(DataLoader(crops, plan.batch, sampler=range(ENDLESS), num_workers=workers))
    from monai.data import DataLoader as MonaiLoader

    scans = monai_feed(name, plan)
    chosen = RandomSampler(scans, replacement=True, num_samples=ENDLESS)
    return iter(MonaiLoader(scans, batch_size=plan.batch, sampler=chosen, num_workers=workers))


# --- each in a process of its own -------------------------------------------------------------------------------------


def serve(pipe: Connection, name: str, plan: Plan, workers: int) -> None:
    """Take as many batches as the pipe asks for, each time, and answer with the seconds."""
    torch.set_num_threads(1)
    stream = batches(name, plan, workers)
    next(stream)
    pipe.send(None)
    while count := pipe.recv():
        # What the loader's processes did while it was not their turn.
        for _ in range(2 * workers):
            next(stream)
        begun = time.perf_counter()
        for _ in range(count):
            next(stream)
        pipe.send(time.perf_counter() - begun)
    os._exit(0)


def alone(work: Callable[..., Any], *given: Any) -> Any:
    """Return what `work` returns in a fresh process."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=answer, args=(theirs, work, *given))
    process.start()
    theirs.close()
    found = ours.recv()
    process.join()
    return found


def answer(pipe: Connection, work: Callable[..., Any], *given: Any) -> None:
    torch.set_num_threads(1)
    pipe.send(work(*given))


def resident() -> int:
    """Return the bytes held now; from here on the kernel counts the peak anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024


def memory_of(name: str, plan: Plan, crops: int) -> int:
    """Return by how many bytes a feed grows until it has given so many crops."""
    if name != STORE:
        import monai.data  # noqa: F401 - not counted
    before = resident()
    stream = batches(name, plan, 0)
    for _ in range(crops // plan.batch):
        next(stream)
    return (peak_memory() or 0) - before


def preparing(name: str, plan: Plan, workers: int) -> tuple[float, int]:
    """Return the seconds of preparing all scans, and by how many bytes the process grew meanwhile."""
    kept = None if name == STORE else monai_steps(plan.look)[0]
    before, begun = resident(), time.perf_counter()
    with tempfile.TemporaryDirectory(dir=plan.folder) as folder:
        fresh = replace(plan, folder=Path(folder))
        if name == STORE:
            prepared(fresh, workers)
        else:
            from monai.data import PersistentDataset

            disk = PersistentDataset([{"image": str(c.image)} for c in plan.scans.training], kept, folder)
            for number in range(len(disk)):
                disk[number]
        return time.perf_counter() - begun, (peak_memory() or 0) - before


# --- tables -----------------------------------------------------------------------------------------------------------


def take_rounds(plan: Plan, workers: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return the crops per second of each feed in each round; a round is about so many seconds of each."""
    spawn = multiprocessing.get_context("spawn")
    pipes, rates = {}, {name: [] for name in FEEDS}
    for name in FEEDS:
        pipes[name], theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(theirs, name, plan, workers)).start()
        pipes[name].recv()

    def take(name: str, count: int) -> float:
        pipes[name].send(count)
        return float(pipes[name].recv())

    counts = {name: max(4, round(8 * seconds / take(name, 8))) for name in FEEDS}
    for _ in range(rounds):
        for name in FEEDS:
            rates[name].append(counts[name] * plan.batch / take(name, counts[name]))
    for pipe in pipes.values():
        pipe.send(0)
    return rates


def print_crops(plan: Plan, workers: Sequence[int], rounds: int, seconds: float) -> None:
    print(
        f"Crops of {' x '.join(map(str, plan.look.crop))} from {len(plan.scans.training)} scans, {plan.batch} a batch;"
    )
    print(f"median of {rounds} rounds in which the feeds take turns, shares are those within a round.\n")
    print("| loader's processes | feed | crops/s | store's share of it |\n|---|---|---|---|")
    for number in workers:
        rates = take_rounds(plan, number, rounds, seconds)
        for name, found in rates.items():
            shares = [ours / theirs for ours, theirs in zip(rates[STORE], found, strict=True)]
            share = f"{statistics.median(shares):.2f} x ({min(shares):.2f} to {max(shares):.2f})"
            cell = "1" if name == STORE else share
            print(f"| {number} | {name} | {statistics.median(found):.1f} | {cell} |", flush=True)
    print()


def print_memory(plan: Plan, crops: int) -> None:
    whole = len(plan.scans.training)
    cases = sorted({min(whole, n) for n in ((1, 2, whole) if whole <= SCANS else (5, 20, whole))})
    print(f"By how many MB a process grows, after its imports, until it has given {crops} crops, by cases.\n")
    print(f"| feed | {' | '.join(f'{n} cases' for n in cases)} |\n|---|{'---|' * len(cases)}")
    for name in (STORE, PERSISTENT, UNCOPIED):
        found = [f"{alone(memory_of, name, plan.few(n), crops) / 1e6:.0f}" for n in cases]
        print(f"| {name} | {' | '.join(found)} |", flush=True)
    print(f"| the scans as float32 | {' | '.join(f'{plan.few(n).raw / 1e6:.0f}' for n in cases)} |\n")


def print_space(plan: Plan) -> None:
    print("| on disk | MB | of raw float32 |\n|---|---|---|")
    used = {STORE: prepared(plan).folder, PERSISTENT: plan.folder / "persistent"}
    for name, folder in used.items():
        count = sum(path.stat().st_size for path in folder.iterdir())
        print(f"| {name} | {count / 1e6:.1f} | {count / plan.raw:.3f} |")
    print()


def print_prepare(plan: Plan) -> None:
    """Print what preparing the first two scans takes; memory in the float32 volumes of the larger one."""
    two = plan.few(2)
    volume = max(4 * int(np.prod(case.grid.shape)) for case in prepared(two).cases("training"))
    print("| preparing two scans | s | memory grown by, MB | in float32 volumes |\n|---|---|---|---|")
    for name, workers in ((STORE, 1), (STORE, 2), (PERSISTENT, 1)):
        seconds, grown = alone(preparing, name, two, workers)
        at_once = "one after the other" if workers == 1 else f"{workers} at once"
        print(f"| {name}, {at_once} | {seconds:.1f} | {grown / 1e6:.0f} | {grown / volume:.2f} |", flush=True)
    print()


def machine() -> str:
    import monai

    versions = f"Python {platform.python_version()}, torch {torch.__version__}, MONAI {monai.__version__}"
    return f"{processor()}, cores {os.cpu_count()}, {versions}, {datetime.date.today()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder of CTs, or `drawn`")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", choices=("crops", "memory", "space", "prepare"))
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="two cases, short rounds")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        drawn = asked.data == DRAWN
        scans = draw_scans(folder / "scans", 2 if asked.short else SCANS) if drawn else read_dataset(asked.data)
        look, batch = LOOKS[DRAWN if drawn else "scans"]
        plan = Plan(replace(scans, unlabelled=(), validation=()), look, batch, folder)
        plan = plan.few(2) if asked.short else plan
        prepared(plan, 2)
        alone(memory_of, UNCOPIED, plan, batch)
        print(f"{machine()}\n", flush=True)
        if asked.only in (None, "crops"):
            print_crops(plan, asked.workers, 2 if asked.short else asked.rounds, 0.3 if asked.short else 1.0)
        if asked.only in (None, "memory"):
            print_memory(plan, 20 if asked.short else 400 if not drawn else 60)
        if asked.only in (None, "space"):
            print_space(plan)
        if asked.only in (None, "prepare"):
            print_prepare(plan)


if __name__ == "__main__":
    main()
