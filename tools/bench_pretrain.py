"""Time pretraining steps: Swin that drops hidden units against Swin that keeps them, and the recipes of shipped cards.

python tools/bench_pretrain.py [--rounds 5] [--only swin|cards] [--encoder swin-small] [--crop 128 128 64] [--batch 1]
                               [--cards NAME ...]

A step is that of the training loop on the CPU, without reading and augmenting crops: forward, loss, backward, clipping,
AdamW (fused). Crops are noise. OMP_NUM_THREADS sets the threads; where other work shares the cores, 1 is steadier.
"""

import argparse
import datetime
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from mimzoo.hub import find_model
from mimzoo.models import build_encoder, build_objective
from mimzoo.pretrain import step_generator
from mimzoo.recipes import Component, Input, Optimiser, Pretraining, ZScore
from mimzoo.reconstruct import pretraining_of
from mimzoo.registry import registry
from mimzoo.tokens import Size, sized
from mimzoo.training import (
    Job,
    State,
    make_accelerator,
    make_average,
    mixed_precision,
    optimise,
    parameter_groups,
    tune_allocator,
)

# The first steps build the layouts of windows, the optimiser's slots and the allocator's pools.
WARM_UP = 3
# By ratio, the share of a step on all tokens that a step which drops the hidden ones is meant to cost at most.
TARGETS = {0.75: 0.4, 0.875: 0.25}
# Uniform masking leaves one unit of a cell of 4 or 8 (ratio 0.75, 0.875), which takes an even number of units along two
# or three axes. The smallest unit of a Swin of four stages is 32 voxels, so that sides are multiples of 64, and 96 is
# out. 64 x 64 x 64 would keep a single unit at 0.875; this keeps 8 of 32 and 4 of 32, and all tokens take 3 GB.
CROP = (128, 128, 64)


@dataclass(frozen=True)
class Plan:
    """An encoder, what it sees, and the recipe by which it is pretrained."""

    name: str
    encoder: Component
    input: Input
    recipe: Pretraining


@dataclass(frozen=True)
class Cost:
    """What a plan costs in a process of its own; `peak` is all its memory in bytes, None where it is not known."""

    seconds: float
    encoder_parameters: int
    parameters: int
    peak: int | None


def swin_plans(encoder: str, crop: Size, batch: int) -> list[Plan]:
    """Return SimMIM on all tokens, then MAE on the visible ones at each ratio."""
    component = Component(name=encoder)
    unit = build_encoder(component, 1, crop).mask_unit
    look = Input(channels=("noise",), spacing_mm=(1, 1, 1), intensity=ZScore(mode="zscore"), crop=crop)

    def plan(objective: str, masking: str, ratio: float, decoder: str) -> Plan:
        recipe = Pretraining(
            objective=Component(name=objective, args={"target": "normalised", "loss": "l2"}),
            masking=Component(name=masking, args={"ratio": ratio, "unit": [*unit]}),
            decoder=Component(name=decoder),
            data="noise",
            steps=1000,
            batch=batch,
            validate_every=1000,
            optimiser=Optimiser(lr=1e-3),
        )
        return Plan(f"`{objective}` {ratio}, {masking} masking, {decoder} decoder", component, look, recipe)

    return [plan("simmim", "random", 0.75, "linear"), *(plan("mae", "uniform", r, "transformer") for r in TARGETS)]


def shipped_cards() -> list[str]:
    """Return the names of the hippocampus pretraining cards that plugins offer."""
    return [offer.name for offer in registry().of_kind("card") if offer.name.endswith("-hippocampus")]


def card_plan(name: str) -> Plan:
    card = find_model(name)
    return Plan(f"`{card.name}`", card.block.encoder, card.block.input, pretraining_of(card))


def make_step(plan: Plan) -> tuple[nn.Module, Callable[[], float]]:
    """Return the objective of a plan, and a function that trains it by one more step and returns the seconds taken."""
    recipe, look = plan.recipe, plan.input
    torch.manual_seed(recipe.seed)
    encoder = build_encoder(plan.encoder, len(look.channels), look.crop)
    model = build_objective(recipe, encoder, plan.encoder, look)
    groups = parameter_groups(model, recipe.optimiser)
    optimiser = torch.optim.AdamW(groups, lr=recipe.optimiser.lr, betas=recipe.optimiser.betas, fused=True)
    state = State(model, optimiser, make_average(model, recipe.optimiser.ema_decay))
    accelerator = make_accelerator(recipe)
    volume = torch.rand(recipe.batch // recipe.accumulate, len(look.channels), *look.crop)
    job = Job(
        folder=Path(),
        schedule=recipe,
        model=model,
        groups=groups,
        data=TensorDataset(volume),
        loss_of=lambda model, batch, step: model(batch["volume"], step_generator(recipe.seed, step)).loss,
        validate=lambda model: {},
        higher_is_better=False,
        title=plan.name,
    )
    batches = repeat({"volume": volume, "case": ["noise"]})

    def step() -> float:
        begun = time.perf_counter()
        optimise(accelerator, model, state, job, batches)
        return time.perf_counter() - begun

    return model, step


def take_rounds(plans: list[Plan], rounds: int) -> list[list[float]]:
    """Return the seconds of each plan's step in each round; plans take turns, so that a slow spell hits all alike."""
    steps = [make_step(plan)[1] for plan in plans]
    for _ in range(WARM_UP):
        for step in steps:
            step()
    return [[step() for step in steps] for _ in range(rounds)]


def measure(plan: Plan, warm_up: int, rounds: int) -> Cost:
    tune_allocator()
    model, step = make_step(plan)
    seconds = [step() for _ in range(warm_up + rounds)][warm_up:]
    ours = sum(p.numel() for name, p in model.named_parameters() if name.startswith("encoder."))
    return Cost(statistics.median(seconds), ours, sum(p.numel() for p in model.parameters()), peak_memory())


def measure_alone(plan: Plan, warm_up: int, rounds: int) -> Cost:
    """Return the cost of a plan, measured in a fresh process, for memory that was once taken is not given back."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, plan, warm_up, rounds).result()


def peak_memory() -> int | None:
    # Not ru_maxrss: that of a process begins at the peak of the one that started it.
    status = Path("/proc/self/status")
    found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")] if status.is_file() else []
    return int(found[0].split()[1]) * 1024 if found else None


def print_swin(encoder: str, crop: Size, batch: int, rounds: int) -> None:
    plans = swin_plans(encoder, crop, batch)
    taken = take_rounds(plans, rounds)
    print(f"`{encoder}`, crop {sized(crop)}, batch {batch}; median of {rounds} rounds in which the steps take turns.")
    print("Ratios are those within a round, least and most in brackets; memory is the peak of a process of its own.\n")
    print("| step | s | share of simmim's | target | GB |\n|---|---|---|---|---|")
    for place, (plan, target) in enumerate(zip(plans, ["", *TARGETS.values()], strict=True)):
        seconds = statistics.median(row[place] for row in taken)
        shares = [row[place] / row[0] for row in taken]
        share = f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})" if place else "1"
        # The second step holds all that any later one does.
        peak = gigabytes(measure_alone(plan, 1, 1).peak)
        print(f"| {plan.name} | {seconds:.2f} | {share} | {target} | {peak} |", flush=True)


def print_cards(names: list[str], rounds: int) -> None:
    print(f"Recipes of cards, each in a process of its own; median of {rounds} steps. Parameters are the encoder's and")
    print("what pretraining adds; memory is the peak of the whole process, libraries included.\n")
    print("| card | encoder | objective | crop | batch | s | crops/s | parameters (M) | GB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for plan in map(card_plan, names):
        cost, recipe = measure_alone(plan, WARM_UP, rounds), plan.recipe
        added = cost.parameters - cost.encoder_parameters
        cells = (
            *(plan.name, plan.encoder.name, recipe.objective.name, sized(plan.input.crop), recipe.batch),
            *(f"{cost.seconds:.2f}", f"{recipe.batch / cost.seconds:.1f}"),
            *(f"{cost.encoder_parameters / 1e6:.2f} + {added / 1e6:.2f}", gigabytes(cost.peak)),
        )
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def gigabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:.2f}"


def machine() -> str:
    """Return a line about processor, threads, versions, date and allocator."""
    precision = {"no": "float32", "bf16": "bfloat16"}[mixed_precision("auto")]
    parts = [
        processor(),
        f"cores {os.cpu_count()}",
        f"threads {torch.get_num_threads()}",
        f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}, {precision})",
        f"Python {platform.python_version()}",
        f"{datetime.date.today()}",
        f"allocator {'default' if os.environ.get('MIMZOO_MALLOC') == 'default' else 'tuned'}",
    ]
    return ", ".join(parts)


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("swin", "cards"))
    parser.add_argument("--encoder", default="swin-small")
    parser.add_argument("--crop", type=int, nargs=3, default=CROP)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--cards", nargs="+", metavar="NAME")
    asked = parser.parse_args()
    # A GPU would run ahead of the clock, and its memory is another matter.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    tune_allocator()
    print(f"{machine()}\n", flush=True)
    if asked.only != "cards":
        print_swin(asked.encoder, tuple(asked.crop), asked.batch, asked.rounds)
        print()
    if asked.only != "swin":
        print_cards(asked.cards or shipped_cards(), asked.rounds)


if __name__ == "__main__":
    main()
