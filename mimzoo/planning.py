"""What a training takes before it is begun: `mimzoo plan NAME --memory 24GB`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import init_empty_weights
from rich.table import Table
from torch import Tensor, nn

from mimzoo.cards import Card
from mimzoo.errors import MimzooError, UnknownNameError, suggest
from mimzoo.losses import task_loss
from mimzoo.models import build_model
from mimzoo.protocols import recipe_of
from mimzoo.recipes import Schedule
from mimzoo.reconstruct import make_objective, pretraining_of
from mimzoo.rehearsal import LossOf, Rehearsal, Stage, Way
from mimzoo.tokens import sized

TASKS = ("pretraining", "finetuning")
UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
# What a device keeps to itself: its context, the workspaces of its kernels, and gaps between what is allocated.
RESERVED = 0.1
WAYS = tuple(Way(bfloat16, checkpointing) for checkpointing in (False, True) for bfloat16 in (False, True))
# Every byte of a step grows evenly with the batch from here on, so that two rehearsals tell any other. With a single
# crop some tensors are views that otherwise are copies, and contrastive objectives have nothing to compare.
REHEARSED = (2, 3)


@dataclass(frozen=True)
class Parameters:
    """How many numbers a model learns: those of the encoder, those beside it, and how many of all are trained."""

    encoder: int
    rest: int
    trained: int


@dataclass(frozen=True)
class Need:
    """The memory in bytes that a training takes on each device, computed in a certain way.

    `weights` are those of the model with its buffers, `average` those of their moving average; `exchange` are the
    gradients on their way between devices.
    """

    way: Way
    weights: int
    gradients: int
    optimiser: int
    average: int
    exchange: int
    fewer: Rehearsal
    more: Rehearsal

    @property
    def of_crop(self) -> int:
        """Return what is kept of one more crop between forward and backward."""
        return (self.more.kept - self.fewer.kept) // (self.more.batch - self.fewer.batch)

    def activations(self, crops: int) -> int:
        """Return what is kept of so many crops between forward and backward."""
        return self.fewer.kept + (crops - self.fewer.batch) * self.of_crop

    def peak(self, crops: int, accumulates: bool) -> int:
        """Return the most that is alive at once in a step of so many crops; gradients stay where it accumulates."""
        steady = self.weights + self.optimiser + self.average + self.exchange
        span = self.more.batch - self.fewer.batch
        beside = 0
        for few, many, done in zip(self.fewer.alive, self.more.alive, self.fewer.gradients, strict=True):
            alive = few + (crops - self.fewer.batch) * (many - few) // span
            beside = max(beside, alive + (self.gradients - done if accumulates else 0))
        return steady + beside

    def most_crops(self, memory: int, accumulates: bool) -> int:
        """Return how many crops at once fit into a device's memory, of which a tenth is its own; 0 for none."""
        low, high = 0, 1
        while self.peak(high, accumulates) <= usable(memory):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.peak(middle, accumulates) <= usable(memory) else (low, middle)
        return low


@dataclass(frozen=True)
class Plan:
    """What a card's training takes: `batch` crops a step over all `devices`, in `accumulate` parts; `flops` a crop."""

    card: Card
    task: str
    parameters: Parameters
    flops: int
    devices: int
    batch: int
    accumulate: int
    needs: tuple[Need, ...]

    @property
    def crops(self) -> int:
        """Return how many crops a device computes at once."""
        return self.batch // (self.devices * self.accumulate)

    def fits(self, need: Need, memory: int) -> bool:
        """Return whether the batch as it is shared out fits into the memory of each device."""
        return need.peak(self.crops, self.accumulate > 1) <= usable(memory)

    def parts(self, need: Need, memory: int) -> int | None:
        """Return in how few parts a device with so much memory can compute its share of the batch; None if in none."""
        share = self.batch // self.devices
        for parts in (n for n in range(1, share + 1) if share % n == 0):
            if need.peak(share // parts, parts > 1) <= usable(memory):
                return parts
        return None


def usable(memory: int) -> int:
    """Return the bytes of a device's memory that a training may take."""
    return int(memory * (1 - RESERVED))


def plan(card: Card, task: str | None = None, devices: int = 1, ways: Sequence[Way] = WAYS) -> Plan:
    """Return what the training of a card takes on each of so many devices, in each of these ways.

    The task is "pretraining" or "finetuning", by default the one that the card has a recipe for, pretraining if both.
    Raises CardError for a card without that recipe; UnknownNameError for another task; MimzooError when devices cannot
    share the batch; errors of `build_model` and `build_objective`; ShapeError for shapes that depend on values.
    """
    task = task or ("finetuning" if card.block.pretraining is None else "pretraining")
    recipe = schedule_of(card, task)
    _check_shares(recipe, devices)
    with init_empty_weights(include_buffers=False):
        model = make_model(card, task)
    stage, loss_of = Stage(model), make_loss(card, task)
    batches = [make_batch(card, task, crops, stage.tensor) for crops in REHEARSED]
    rehearsed = {
        way: [stage.rehearse(batch, loss_of, way) for batch in batches]
        for way in sorted(ways, key=lambda way: way.checkpointing)
    }
    needs = tuple(_need(way, model, recipe, devices, *rehearsed[way]) for way in ways)
    flops = needs[0].more.flops // needs[0].more.batch
    return Plan(card, task, count_parameters(model), flops, devices, recipe.batch, recipe.accumulate, needs)


def _check_shares(recipe: Schedule, devices: int) -> None:
    micro = recipe.batch // recipe.accumulate
    if micro % devices:
        parts = f" in {recipe.accumulate} parts" if recipe.accumulate > 1 else ""
        raise MimzooError(
            f"{devices} devices cannot share a batch of {recipe.batch} crops{parts} evenly; "
            f"use a number of devices that divides {micro}, or set another batch"
        )


def read_memory(text: str) -> int:
    """Return the bytes that a text such as "24GB", "24 GiB" or "8000MB" means; MimzooError for any other."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    size = int(float(found[1]) * UNITS.get(found[2].upper(), 0)) if found else 0
    if not size:
        raise MimzooError(
            f"--memory {text!r} is no amount of memory; write a number above 0 and MB, GB, MiB or GiB, such as 24GB"
        )
    return size


def schedule_of(card: Card, task: str) -> Schedule:
    """Return the recipe of a card for a task; CardError when it has none, UnknownNameError for an unknown task."""
    if task not in TASKS:
        raise UnknownNameError(f"no training is called {task!r}; {suggest(task, TASKS)}")
    return pretraining_of(card) if task == "pretraining" else recipe_of(card)


def make_model(card: Card, task: str) -> nn.Module:
    """Return the module that a card's recipe trains, freshly initialised; its masks come from noise."""
    if task == "finetuning":
        torch.manual_seed(recipe_of(card).seed)
        return build_model(card.block)
    objective: Any = make_objective(card)
    masking = getattr(objective, "masking", None)
    if masking is not None:
        # What is hidden may depend on voxels, which a rehearsal has none of.
        objective.masking = lambda volume, generator, unit: masking(torch.rand(volume.shape), generator, unit)
    model: nn.Module = objective
    return model


def make_loss(card: Card, task: str) -> LossOf:
    """Return the loss of a batch as the recipe's training has it."""
    if task == "finetuning":
        return task_loss(card.block.task, {"crop": 0.0})
    return lambda model, batch, step: model(batch["volume"], torch.Generator().manual_seed(step)).loss


def make_batch(card: Card, task: str, crops: int, tensor: Callable[..., Tensor]) -> dict[str, Any]:
    """Return a batch of so many crops; `tensor(*shape, dtype=...)` makes its tensors."""
    input = card.block.input
    batch: dict[str, Any] = {"volume": tensor(crops, len(input.channels), *input.crop), "case": ["crop"] * crops}
    if task == "finetuning" and not card.block.task.of_scan:
        batch["labels"] = tensor(crops, *input.crop, dtype=torch.int64)
    return batch


def count_parameters(model: nn.Module) -> Parameters:
    """Return how many parameters a model has."""
    sizes = {name: each.numel() for name, each in model.named_parameters()}
    encoder = sum(size for name, size in sizes.items() if name.startswith("encoder."))
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    return Parameters(encoder, sum(sizes.values()) - encoder, trained)


def _need(way: Way, model: nn.Module, recipe: Schedule, devices: int, fewer: Rehearsal, more: Rehearsal) -> Need:
    weights = _bytes([*model.parameters(), *model.buffers()])
    gradients = _bytes([each for each in model.parameters() if each.requires_grad])
    return Need(
        way=way,
        weights=weights,
        gradients=gradients,
        # AdamW keeps a running mean of each gradient and of its square.
        optimiser=2 * gradients,
        average=weights if recipe.optimiser.ema_decay else 0,
        # Processes exchange gradients in buckets, which hold a copy of them.
        exchange=gradients if devices > 1 else 0,
        fewer=fewer,
        more=more,
    )


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)


def plan_table(found: Plan, memory: int | None = None) -> Table:
    """Return a table of a plan, and of what fits into the memory (bytes) of each device where it is given."""
    unit = 1e9 if max(need.peak(found.crops, True) for need in found.needs) >= 1e9 else 1e6
    table = Table(
        f"{'GB' if unit == 1e9 else 'MB'} on each device",
        *(str(need.way) for need in found.needs),
        box=None,
        pad_edge=False,
    )
    for column in table.columns[1:]:
        column.justify = "right"

    def shown(count: int) -> str:
        return f"{count / unit:.{2 if unit == 1e9 else 0}f}"

    rows: dict[str, Callable[[Need], str]] = {
        "weights": lambda need: shown(need.weights),
        "gradients": lambda need: shown(need.gradients),
        "optimiser (AdamW)": lambda need: shown(need.optimiser),
        "average of the weights": lambda need: shown(need.average),
        "exchange of gradients": lambda need: shown(need.exchange),
        "activations of a crop": lambda need: shown(need.of_crop),
        f"activations of {found.crops}": lambda need: shown(need.activations(found.crops)),
        "peak": lambda need: shown(need.peak(found.crops, found.accumulate > 1)),
    }
    if memory is not None:
        rows |= {
            f"fits into {memory / 1e9:.4g} GB, a tenth left free": lambda need: (
                "yes" if found.fits(need, memory) else "no"
            ),
            "largest batch that fits": lambda need: str(need.most_crops(memory, False) * found.devices),
            f"accumulate for {found.batch}": lambda need: str(found.parts(need, memory) or "none"),
        }
    for name, cell in rows.items():
        cells = [cell(need) for need in found.needs]
        if set(cells) != {shown(0)} or "fits" in name:
            table.add_row(name, *cells)
    return table


def describe(found: Plan) -> str:
    """Return what a plan is for, its parameters and its operations, on three lines."""
    shared = f", {found.batch // found.devices} on each of {found.devices} devices" if found.devices > 1 else ""
    parts = f" in {found.accumulate} parts" if found.accumulate > 1 else ""
    sizes, step = found.parameters, found.flops * found.batch
    return (
        f"{found.card.name}, {found.task}: batch {found.batch} of {sized(found.card.block.input.crop)}{shared}{parts}\n"
        f"parameters: {sizes.encoder / 1e6:.2f} M of the encoder, {sizes.rest / 1e6:.2f} M beside it, "
        f"{sizes.trained / 1e6:.2f} M trained\n"
        f"operations of a step, forward and backward: {flops(step)}, {flops(found.flops)} a crop"
    )


def advise(found: Plan, memory: int) -> str | None:
    """Return a sentence on what to do where the batch fits into `memory` (bytes) in no way as it is; else None."""
    if any(found.fits(need, memory) for need in found.needs):
        return None
    for need in found.needs:
        parts = found.parts(need, memory)
        if parts is not None:
            precision = "bfloat16" if need.way.bfloat16 else "float32"
            changes = f"--set {found.task}.accumulate={parts} --set {found.task}.precision={precision}"
            changes += f" --set {found.task}.checkpointing=true" if need.way.checkpointing else ""
            return f"a batch of {found.batch} does not fit as it is; train with {changes}"
    least = min(need.peak(1, False) for need in found.needs)
    return (
        f"not even one crop fits: that takes {least / 1e9:.2f} GB, and {usable(memory) / 1e9:.2f} of "
        f"{memory / 1e9:.4g} GB may be used; choose a smaller crop or encoder, or more memory"
    )


def flops(count: int) -> str:
    """Return a number of operations with its unit: "1.58 TFLOP"."""
    power = min(6, max(2, (len(str(count)) - 1) // 3))
    return f"{count / 10 ** (3 * power):.3g} {'MGTPE'[power - 2]}FLOP"
