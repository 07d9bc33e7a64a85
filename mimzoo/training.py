"""The training loop that pretraining and fine-tuning share, and a state from which it continues bit-identically."""

import copy
import ctypes
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mimzoo import sharding
from mimzoo.convolutions import make_wary
from mimzoo.errors import DataError, WeightsError
from mimzoo.faults import bad_batch, feeding
from mimzoo.files import remove_temporary
from mimzoo.processes import count, is_main, join, meeting, rank, total
from mimzoo.progress import History, leave_stop_requests, progress_bar, stop_requests
from mimzoo.recipes import Optimiser, Schedule
from mimzoo.recompute import recompute_blocks
from mimzoo.sessions import Sitting
from mimzoo.tracking import Records, tracking
from mimzoo.weights import read_about, read_weights, save_weights

LOG_EVERY = 10
CHECKPOINTS = "checkpoints"
Batch = dict[str, Any]
LossOf = Callable[[nn.Module, Batch, int], Tensor]
Validate = Callable[[nn.Module], dict[str, float]]
Draw = Callable[[nn.Module, int], list[Path]]


class InterruptedRun(Exception):
    """The run was asked to stop; its state is saved."""


@dataclass
class State:
    """All that changes while training; `best` is the best value of the first validation figure so far.

    `average` holds the weights averaged over the steps, where the recipe asks for it. Where each process has but a part
    of every weight, `twin` is a module that takes all of them to be evaluated, unless the average is.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    average: nn.Module | None
    step: int = 0
    best: float = math.inf
    best_step: int = 0
    recent_losses: list[float] = field(default_factory=list)
    twin: nn.Module | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the state by a flat name, random number generators included.

        Every process has to call this, for each may hold a part of a tensor only.
        """
        found = {f"model.{key}": sharding.whole(value, "cpu") for key, value in self.model.state_dict().items()}
        if self.average is not None:
            found |= {f"average.{key}": value for key, value in self.average.state_dict().items()}
        for index, slots in self.optimiser.state_dict()["state"].items():
            tensors = {key: sharding.whole(torch.as_tensor(value), "cpu") for key, value in slots.items()}
            found |= {f"optimiser.{index}.{key}": value for key, value in tensors.items()}
        found["random.cpu"] = torch.get_rng_state()
        if torch.cuda.is_available():
            found["random.cuda"] = torch.cuda.get_rng_state()
        return found

    def save(self, path: Path) -> None:
        """Write the state to `path`, replacing the previous one only once it is whole; every process calls this."""
        about = {"step": self.step, "best": self.best, "best_step": self.best_step, "losses": self.recent_losses}
        tensors = self.tensors()
        if is_main():
            save_weights(path, tensors, about)

    def load(self, path: Path) -> None:
        """Take over the state saved at `path`, down to the random number generators."""
        tensors, about = read_weights(path), read_about(path)
        self.step, self.best, self.best_step = about["step"], about["best"], about["best_step"]
        self.recent_losses = about["losses"]
        sharding.load(self.model, below(tensors, "model"))
        if self.average is not None:
            self.average.load_state_dict(below(tensors, "average"))
        self._load_optimiser(below(tensors, "optimiser"))
        torch.set_rng_state(tensors["random.cpu"])
        if "random.cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random.cuda"])

    def _load_optimiser(self, tensors: dict[str, Tensor]) -> None:
        parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, _, slot = key.partition(".")
            slots.setdefault(int(index), {})[slot] = sharding.alike(value, parameters[int(index)])
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": slots})


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix.`, without it."""
    start = prefix + "."
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}


@dataclass
class Job:
    """One training: what is trained on what, how a batch becomes a loss, and what validation measures.

    `validate` returns named figures of which the first one selects the best weights; `higher_is_better` says which
    way. `data` yields item i of the whole training as a pure function of i, so that resuming needs only the step.
    `draw` returns the pictures that it made of validated weights at a step, if any; `trackers` are told the figures,
    and at the beginning the `settings`.
    """

    folder: Path
    schedule: Schedule
    model: nn.Module
    groups: list[dict[str, Any]]
    data: Dataset[Any]
    loss_of: LossOf
    validate: Validate
    higher_is_better: bool
    title: str
    save_seconds: float = 60.0
    workers: int = 0
    draw: Draw | None = None
    trackers: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


def train(job: Job) -> State:
    """Return the final state of a job, begun or continued from `checkpoints/last.safetensors` in its folder.

    The weights that validate best are kept in `checkpoints/best.safetensors`. Of several processes each trains on its
    share of every batch, and the first one writes.
    Raises InterruptedRun after SIGINT or SIGTERM to any process, with the state saved; DataError when the loss or
    the gradient is not finite, with the batch kept in the folder, or when the processes cannot share a batch evenly,
    and what `mimzoo.faults.feeding` raises. Processes that have nothing to say of it just exit.
    """
    tune_allocator()
    accelerator = make_accelerator(job.schedule)
    model, state = make_state(job, accelerator)
    last = tidy_run(job.folder)
    if last.is_file():
        state.load(last)
    feed, saved_at = feeding(accelerator.prepare(make_loader(job, state.step)), job, state), time.monotonic()
    shows = (job.title, job.schedule.steps, state.step, job.schedule.batch)
    sitting, recording = begin_sitting(job, state, accelerator), begin_records(job, state, accelerator)
    bar = progress_bar(*shows, quiet=not is_main())
    with stop_requests() as stop, feed as batches, bar as shown, recording as records:
        while state.step < job.schedule.steps:
            loss = optimise(accelerator, model, state, job, batches)
            shown.advance(state.step, loss, learning_rate(job.schedule, state.step - 1))
            record_loss(state, records, loss, job.schedule)
            validated = state.step % job.schedule.validate_every == 0 or state.step == job.schedule.steps
            if validated:
                figures = validate(job, state, records, accelerator)
                shown.say(state.step, figures, best=state.best_step == state.step)
            due = is_main() and time.monotonic() - saved_at > job.save_seconds
            # Whichever process was asked to stop, all do so after the same step.
            stopping, saving = (flag > 0 for flag in total(stop.asked, due))
            if validated or stopping or saving:
                with meeting():
                    records.history.sync()
                    state.save(last)
                    if is_main():
                        sitting.save(state.step)
                saved_at = time.monotonic()
            if stopping and not is_main():
                raise SystemExit(130)
            if stopping:
                raise InterruptedRun(f"stopped at step {state.step} of {job.schedule.steps}")
    return state


def tidy_run(folder: Path) -> Path:
    """Return where the last state of a run is kept, once what a killed writer left in its folders is removed."""
    checkpoints = folder / CHECKPOINTS
    if is_main():
        checkpoints.mkdir(parents=True, exist_ok=True)
        for each in (folder, checkpoints):
            remove_temporary(each)
    return checkpoints / "last.safetensors"


def make_state(job: Job, accelerator: Accelerator) -> tuple[nn.Module, State]:
    """Return the model as it is trained, on its device and wrapped for several of them, and the state before step 1."""
    if accelerator.mixed_precision == "bf16" and accelerator.device.type == "cpu":
        make_wary(job.model)
    recipe = job.schedule.optimiser
    optimiser = torch.optim.AdamW(job.groups, lr=recipe.lr, betas=recipe.betas, fused=True)
    average, twin = make_average(job.model, recipe.ema_decay), None
    if sharding.is_sharded(accelerator):
        sharding.name_blocks(accelerator, job.model)
        twin = copy.deepcopy(job.model).to(accelerator.device) if average is None else None
    if job.schedule.checkpointing:
        recompute_blocks(job.model)
    model, optimiser = accelerator.prepare(job.model, optimiser)
    if average is not None:
        average.to(accelerator.device)
    return model, State(accelerator.unwrap_model(model), optimiser, average, twin=twin)


def begin_sitting(job: Job, state: State, accelerator: Accelerator) -> Sitting:
    """Return the record of this session: from which step, and on what."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Sitting(job.folder, state.step, name, accelerator.num_processes, str(accelerator.mixed_precision))


def begin_records(job: Job, state: State, accelerator: Accelerator) -> AbstractContextManager[Records]:
    """Return what records the figures of this session; the main process alone tells trackers."""
    history = History(job.folder / "history.csv", state.step)
    trackers = job.trackers if is_main() else ()
    return tracking(history, trackers, job.folder, state.step, job.schedule.batch, job.settings)


def make_accelerator(schedule: Schedule) -> Accelerator:
    """Return the accelerator: devices as launched, the recipe's precision, the batch split over all devices.

    Raises DataError when the processes cannot share a batch evenly.
    """
    join()
    check_shares(schedule)
    plugin = sharding.plugin()
    if plugin is None:
        # Accelerate keeps the precision of the first training of a process, and refuses another to the next one.
        AcceleratorState._reset_state()
    return Accelerator(
        mixed_precision=mixed_precision(schedule.precision),
        gradient_accumulation_steps=schedule.accumulate,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        fsdp_plugin=plugin,
    )


def check_shares(schedule: Schedule) -> None:
    """Raise DataError when the processes cannot share the crops of each micro-batch evenly."""
    unit = schedule.accumulate * count()
    if schedule.batch % unit:
        near = max(unit, round(schedule.batch / unit) * unit)
        raise DataError(
            f"{count()} processes cannot share a batch of {schedule.batch} crops evenly (accumulate "
            f"{schedule.accumulate}); set a batch that {unit} divides, such as {near}, or start fewer processes"
        )


def mixed_precision(precision: str) -> str:
    """Return accelerate's name of the precision; `auto` is bf16 where the device computes it natively."""
    if precision == "auto":
        native = torch.cuda.is_bf16_supported(including_emulation=False) if torch.cuda.is_available() else _cpu_bf16()
        return "bf16" if native else "no"
    return {"float32": "no", "bfloat16": "bf16"}[precision]


def _cpu_bf16() -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    return capability.startswith("AVX512") and torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_amx()


def _has_amx() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())


def make_loader(job: Job, first_step: int) -> DataLoader[Any]:
    """Return the loader of the micro-batches from `first_step` on."""
    schedule = job.schedule
    items = range(first_step * schedule.batch, schedule.steps * schedule.batch)
    return DataLoader(
        job.data,
        sampler=items,
        batch_size=schedule.batch // schedule.accumulate,
        num_workers=job.workers,
        worker_init_fn=leave_stop_requests,
        # A loader draws a seed for its workers; from a generator of its own, so that the run's random state stays.
        generator=torch.Generator(),
    )


def optimise(accelerator: Accelerator, model: nn.Module, state: State, job: Job, batches: Iterator[Batch]) -> float:
    """Return the loss of one optimiser step over `accumulate` micro-batches, and advance the state by it."""
    schedule, total = job.schedule, 0.0
    model.train()
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(schedule, state.step) * group["lr_scale"]
    for number in range(schedule.accumulate):
        first = first_crop(schedule, number)
        batch = {**next(batches), "first": first}
        # What a model draws depends on the step and on these crops, and not on what was drawn before.
        torch.manual_seed((schedule.seed * 1_000_003 + state.step) * 1_009 + 1 + first)
        with accelerator.accumulate(model):
            # Autocast keeps its copies of the weights until it ends, and before the gradients take their place.
            with accelerator.autocast():
                loss = job.loss_of(model, batch, state.step)
            accelerator.backward(loss)
            value = mean_loss(loss.item(), batch, job, state)
            if accelerator.sync_gradients:
                norm = clip_gradients(accelerator, model, schedule.optimiser.clip_norm)
                check_gradient(norm, batch, job, state)
            state.optimiser.step()
            state.optimiser.zero_grad(set_to_none=True)
        total += value / schedule.accumulate
    state.step += 1
    update_average(state, schedule.optimiser.ema_decay)
    return total


def first_crop(schedule: Schedule, number: int) -> int:
    """Return the place in a step's batch where this process's share of micro-batch `number` begins."""
    micro = schedule.batch // schedule.accumulate
    return number * micro + rank() * (micro // count())


def mean_loss(own: float, batch: Batch, job: Job, state: State) -> float:
    """Return the mean of the losses of all processes, each of which has to call this.

    Raises DataError when this process's own is not finite; when that of another is, this one exits.
    """
    mean = total(own)[0] / count()
    if not math.isfinite(own):
        raise bad_batch(job, state, batch, "loss", own, learning_rate(job.schedule, state.step))
    if not math.isfinite(mean):
        raise SystemExit(1)
    return mean


def clip_gradients(accelerator: Accelerator, model: nn.Module, most: float) -> float:
    """Return the norm of all gradients; where it is more than `most`, they are scaled down to that."""
    if accelerator.device.type != "cpu" or sharding.is_sharded(accelerator):
        return float(sharding.whole(accelerator.clip_grad_norm_(model.parameters(), most)))
    # On a CPU products take half as long as norms, and what is not to be scaled need not be multiplied by 1.
    gradients = [each.grad.flatten() for each in model.parameters() if each.grad is not None]
    norm = math.sqrt(sum(float(each.dot(each)) for each in gradients))
    if math.isfinite(norm) and norm > most:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), most, torch.tensor(norm))
    return norm


def check_gradient(norm: float, batch: Batch, job: Job, state: State) -> None:
    """Raise DataError when the norm of the gradient, the same in all processes, is not finite; all but the first exit.

    A finite loss may have such a gradient; one step along it, and no state is worth saving.
    """
    if not math.isfinite(norm):
        error = bad_batch(job, state, batch, "gradient", norm, learning_rate(job.schedule, state.step))
        raise error if is_main() else SystemExit(1)


def validate(job: Job, state: State, records: Records, accelerator: Accelerator) -> dict[str, float]:
    """Return the figures of the evaluated weights, recorded; the weights are kept when they are the best so far."""
    judged = state.average if state.average is not None else state.model
    if state.twin is not None:
        judged = state.twin
        judged.load_state_dict({key: sharding.whole(value) for key, value in state.model.state_dict().items()})
    judged.eval()
    random = torch.get_rng_state()
    with torch.inference_mode(), accelerator.autocast():
        figures = job.validate(judged)
    with meeting():
        if job.draw is not None and is_main() and (pictures := job.draw(judged, state.step)):
            records.show(state.step, "reconstruction", pictures)
        # Validation must not move the random state, or its interval would change the result of training.
        torch.set_rng_state(random)
        records.add(state.step, "validation", figures)
        first = next(iter(figures.values()))
        ranked = -first if job.higher_is_better else first
        if ranked < state.best:
            state.best, state.best_step = ranked, state.step
            if is_main():
                about = {"step": state.step, **figures}
                save_weights(best_path(job.folder), judged.state_dict(), about)
    return figures


def learning_rate(schedule: Schedule, step: int) -> float:
    """Return the rate of a step: linear warm-up to `lr`, then half a cosine down to `final_lr`."""
    recipe: Optimiser = schedule.optimiser
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, schedule.steps - recipe.warmup_steps)
    return recipe.final_lr + (recipe.lr - recipe.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def parameter_groups(
    model: nn.Module, recipe: Optimiser, scale_of: Callable[[str], float] = lambda name: 1.0
) -> list[dict[str, Any]]:
    """Return AdamW parameter groups: no decay for vectors, and each parameter's rate times `scale_of(its name)`."""
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (recipe.weight_decay if parameter.ndim > 1 else 0.0, scale_of(name))
            group = groups.setdefault(key, {"params": [], "weight_decay": key[0], "lr_scale": key[1]})
            group["params"].append(parameter)
    return list(groups.values())


def make_average(model: nn.Module, decay: float) -> nn.Module | None:
    """Return a detached copy of the model for exponential averaging, or None when the decay is 0."""
    if decay == 0:
        return None
    return torch.optim.swa_utils.AveragedModel(model).module.requires_grad_(False)


@torch.no_grad()
def update_average(state: State, decay: float) -> None:
    """Move the averaged weights towards the model's; early steps move faster, so that no bias remains."""
    if state.average is None:
        return
    rate = 1 - min(decay, (1 + state.step) / (10 + state.step))
    current = state.model.state_dict()
    for key, value in state.average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(sharding.whole(current[key]), rate)
        else:
            value.copy_(current[key])


def record_loss(state: State, records: Records, loss: float, schedule: Schedule) -> None:
    """Note a step's loss; every tenth step the mean of those since the last record goes to the history."""
    state.recent_losses.append(loss)
    if state.step % LOG_EVERY == 0:
        mean = sum(state.recent_losses) / len(state.recent_losses)
        records.add(state.step, "training", {"loss": mean, "learning_rate": learning_rate(schedule, state.step - 1)})
        state.recent_losses.clear()


def tune_allocator() -> None:
    """Keep freed blocks in the process on glibc: large buffers otherwise cost a page fault at every step.

    `MIMZOO_MALLOC=default` leaves glibc's thresholds as they are, which takes less memory.
    """
    if os.environ.get("MIMZOO_MALLOC") == "default":
        return
    trim_threshold, mmap_threshold, top_pad = -1, -3, -2
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except OSError:
        return
    for option, value in ((mmap_threshold, 1 << 30), (trim_threshold, (1 << 31) - 1), (top_pad, 64 << 20)):
        mallopt(option, value)


def best_path(folder: Path) -> Path:
    """Return where a run keeps the weights that validated best so far."""
    return folder / CHECKPOINTS / "best.safetensors"


def best_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights that validated best in a run.

    Raises WeightsError when the run has not validated yet.
    """
    path = best_path(folder)
    if not path.is_file():
        raise WeightsError(f"{folder} has no best weights yet; let it train until its first validation")
    return read_weights(path)
