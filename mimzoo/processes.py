"""The processes of one training: joining them, who is first, what they agree on, and sharing work out among them."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
from accelerate import PartialState
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_reduce

from mimzoo.errors import MimzooError

Item = TypeVar("Item")
Found = TypeVar("Found")

# A process may wait for as long as another prepares scans, but not for a step that another will never take.
PATIENT, PROMPT = timedelta(days=7), timedelta(minutes=30)


@cache
def join() -> PartialState:
    """Return what is known of the processes, after this one joined those that a launcher started with it.

    `torchrun` and `accelerate launch` tell each process by its environment who it is; without them it is the only one.
    Where there is no accelerator, or ACCELERATE_USE_CPU=true, processes compute on the CPU and speak gloo.
    """
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "y", "on", "t")
    found = PartialState(cpu=asked or not torch.accelerator.is_available())
    # `accelerate launch --cpu` names a port where several processes would meet, but starts one.
    if asked and found.num_processes == 1 and "MASTER_PORT" in os.environ:
        print(
            "mimzoo: accelerate starts several processes on CPUs only by MPI; torchrun does so itself", file=sys.stderr
        )
    return found


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def count() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def is_main() -> bool:
    """Return whether this is the process that writes files, prints and draws."""
    return rank() == 0


def total(*values: float, patience: timedelta = PROMPT) -> list[float]:
    """Return the sums of these values over all processes, each of which has to call this."""
    if count() == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(sums, group=_group(patience))
    found: list[float] = sums.tolist()
    return found


def sum_everywhere(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, each of which has to call this; gradients reach all of them."""
    return all_reduce(values) if count() > 1 else values  # type: ignore[no-untyped-call]


@cache
def _group(patience: timedelta) -> distributed.ProcessGroup | None:
    # On the CPU, so that nobody waits for a device, and with a patience of its own.
    made: distributed.ProcessGroup | None = distributed.new_group(backend="gloo", timeout=patience)
    return made


@contextmanager
def meeting() -> Iterator[None]:
    """Wait at the end of the block until every process is there; within it, they must not speak to each other.

    If it failed anywhere, the first process that failed raises its error, and the others exit with code 1 in silence.
    """
    try:
        yield
    except Exception:
        if _first_failed(True) != rank():
            raise SystemExit(1) from None
        raise
    if _first_failed(False) is not None:
        raise SystemExit(1)


@contextmanager
def company() -> Iterator[None]:
    """Raise MimzooError in the place of whatever comes of speaking to a process that is there no more."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error):
            raise
        raise MimzooError(
            "another process of this training has ended, look for what it said or who ended it; what was saved before "
            "is whole, and --resume goes on from it"
        ) from error


def _first_failed(failed: bool) -> int | None:
    flags = total(*(float(failed and number == rank()) for number in range(count())), patience=PATIENT)
    return next((number for number, flag in enumerate(flags) if flag), None)


def in_turn(work: Callable[[], Found], first: bool) -> Found:
    """Return what `work` returns here, called in the processes that are `first` before all others.

    Errors end all processes as those of a `meeting` do.
    """
    with meeting():
        found = [work()] if first else []
    with meeting():
        return found[0] if found else work()


def share_out(items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Found]]) -> list[Found]:
    """Return what `work` finds for each item, in their order: every process does its share, and all know the whole.

    Errors end all processes as those of a `meeting` do.
    """
    with meeting():
        own = list(work(items[rank() :: count()]))
    if count() == 1:
        return own
    parts: list[list[Found]] = [[] for _ in range(count())]
    distributed.all_gather_object(parts, own, group=_group(PATIENT))
    return [parts[place % count()][place // count()] for place in range(len(items))]
