"""Compare what `mimzoo plan` tells with what training takes.

    python tools/bench_plan.py [--cards NAME ...]

For each way of computing a card's step two processes are measured. The one computes a step, so that libraries and
kernels are there, forgets it, and is watched while it computes two more; glibc gives back at once what is freed, so
that its peak is the memory alive at once, what kernels take for themselves included. The other trains as `mimzoo`
does, which keeps what is freed (`mimzoo.training.tune_allocator`): by how much it grew since its libraries were
loaded, and all it has. The measured table of docs/scale.md is what it prints.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path

import torch
from bench_pretrain import machine, peak_memory
from torch.utils.data import TensorDataset

from mimzoo.cards import Card, override
from mimzoo.hub import find_model
from mimzoo.planning import make_batch, make_loss, make_model, plan, schedule_of
from mimzoo.rehearsal import Way
from mimzoo.training import Job, make_accelerator, make_state, optimise, parameter_groups, tune_allocator

WAYS = [Way(bfloat16, checkpointing, gpu=False) for bfloat16 in (False, True) for checkpointing in (False, True)]


@dataclass(frozen=True)
class Case:
    """A training that is measured: so many crops a step, in so many parts."""

    name: str
    task: str
    batch: int
    accumulate: int = 1

    def card(self) -> Card:
        """Return the card with this batch."""
        given = [f"{self.task}.batch={self.batch}", f"{self.task}.accumulate={self.accumulate}"]
        return override(find_model(self.name), given)


# Every family of encoders, objective and kind of head, of a size that a machine with 8 GB can train.
CASES = (
    Case("vit-mae-btcv", "pretraining", 4),
    Case("vit-simclr-hippocampus", "pretraining", 8),
    Case("swin-mae-btcv", "pretraining", 1),
    Case("swin-simmim-hippocampus", "pretraining", 8),
    Case("resenc-mae-headneck", "pretraining", 2),
    Case("van-simmim-hippocampus", "pretraining", 32),
    Case("primus-mae-hippocampus", "pretraining", 8),
    Case("vit-mae-headneck-seg", "finetuning", 2),
    Case("vit-mae-headneck-seg", "finetuning", 4, 2),
    Case("swin-mae-headneck-seg", "finetuning", 2),
    Case("vit-mae-adni-cls", "finetuning", 1),
)


def real(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(shape) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)


def make_step(case: Case, way: Way) -> Callable[[], float]:
    """Return a function that trains a card by one more step, by the training loop itself."""
    task = case.task
    precision = "bfloat16" if way.bfloat16 else "float32"
    changes = [f"{task}.precision={precision}", f"{task}.checkpointing={str(way.checkpointing).lower()}"]
    card = override(case.card(), changes)
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
        title=case.name,
    )
    accelerator = make_accelerator(recipe)
    wrapped, state = make_state(job, accelerator)
    batches = repeat(make_batch(card, task, case.batch // case.accumulate, real))
    return lambda: optimise(accelerator, wrapped, state, job, batches)


def measure_alive(case: Case, way: Way) -> list[int]:
    """Return the most bytes that two steps take at once, beyond those of a process that has done a step before."""
    make_step(case, way)()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    step = make_step(case, way)
    step()
    step()
    return [peak_memory() - before]


def measure_process(case: Case, way: Way) -> list[int]:
    """Return by how many bytes a process grows that trains two steps as `mimzoo` does, and how many it has then."""
    tune_allocator()
    before = peak_memory()
    step = make_step(case, way)
    step()
    step()
    return [peak_memory() - before, peak_memory()]


MEASURES = {"alive": measure_alive, "process": measure_process}


def in_process(what: str, case: Case, way: Way) -> list[int]:
    """Return what a measure of this file returns in a process of its own."""
    # A GPU would hold what is to be measured.
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    # Blocks larger than this are given back as soon as they are freed.
    env |= {"MALLOC_MMAP_THRESHOLD_": "65536"} if what == "alive" else {}
    asked = json.dumps([what, asdict(case), asdict(way)])
    done = subprocess.run([sys.executable, __file__, "--child", asked], env=env, stdout=subprocess.PIPE, check=True)
    found: list[int] = json.loads(done.stdout.splitlines()[-1])
    return found


def predict(case: Case, ways: list[Way]) -> list[int]:
    """Return the peak of a training in bytes, in each of these ways."""
    found = plan(case.card(), case.task, 1, ways)
    return [need.peak(found.crops, found.accumulate > 1) for need in found.needs]


def print_measured(cases: list[Case]) -> None:
    head = ("card", "batch", "computed in", "planned, GB", "alive, GB", "planned is", "process grew, GB", "process, GB")
    print(f"{machine()}\n\n| {' | '.join(head)} |\n{'|---' * len(head)}|", flush=True)
    for case in cases:
        batch = f"{case.batch} in {case.accumulate} parts" if case.accumulate > 1 else case.batch
        for way, planned in zip(WAYS, predict(case, WAYS), strict=True):
            (alive,) = in_process("alive", case, way)
            grown, whole = in_process("process", case, way)
            cells = (
                *(f"`{case.name}`", batch, way, f"{planned / 1e9:.3f}", f"{alive / 1e9:.3f}"),
                *(f"{planned / alive - 1:+.0%}", f"{grown / 1e9:.2f}", f"{whole / 1e9:.2f}"),
            )
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cards", nargs="+", metavar="NAME", help="only these of the cards that are measured")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        what, case, way = json.loads(asked.child)
        print(json.dumps(MEASURES[what](Case(**case), Way(**way))))
    else:
        print_measured([case for case in CASES if case.name in (asked.cards or [each.name for each in CASES])])


if __name__ == "__main__":
    main()
