"""State dicts as safetensors: the same bytes for the same tensors, verified on reading, loaded strictly."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mimzoo.errors import WeightsError
from mimzoo.files import replacing, sync
from mimzoo.tokens import resize_grid, sized
from mimzoo.verified import verify

ZIP, PICKLE = b"PK\x03\x04", b"\x80"


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor: `resized` to another grid, `adapted` to other input channels, or `loaded` as it is.

    `missing` were wanted and not there, `unexpected` there and not wanted, `unfit` of another shape or kind: of a
    model that was loaded nonetheless, those of the new head that was asked for.
    """

    loaded: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()

    def complete(self) -> bool:
        """Return whether every tensor found its place."""
        return not (self.missing or self.unexpected or self.unfit)

    def __str__(self) -> str:
        parts = [f"{len(self.loaded) + len(self.resized) + len(self.adapted)} tensors loaded"]
        for what in ("resized", "adapted", "missing", "unexpected", "unfit"):
            parts += [f"{what} {_few(getattr(self, what))}"] if getattr(self, what) else []
        return ", ".join(parts)


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def save_weights(path: Path, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> tuple[str, int]:
    """Return the sha256 and size in bytes of the safetensors file just written to `path`.

    The bytes depend on nothing but `state` and `about` (JSON, kept under the one metadata key "mimzoo").
    Raises WeightsError for tensors that share memory or hold NaN or Inf, and when the file cannot be written; then
    whatever lay at `path` is left as it was.
    """
    _check_saved(state)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # safetensors writes several metadata keys in random order, so there is exactly one.
    content = safetensors.torch.save(plain, metadata={"mimzoo": json.dumps(about, sort_keys=True)})
    try:
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        sync(path.parent)
    except OSError as error:
        raise WeightsError(f"cannot write {path} ({len(content)} bytes): {error.strerror or error}") from None
    return hashlib.sha256(content).hexdigest(), len(content)


def _check_saved(state: Mapping[str, Tensor]) -> None:
    owners: dict[int, str] = {}
    for name, tensor in state.items():
        if tensor.numel() and (first := owners.setdefault(tensor.untyped_storage().data_ptr(), name)) != name:
            raise WeightsError(f"the tensors {first!r} and {name!r} share memory; give each module its own parameter")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"the tensor {name!r} holds NaN or Inf, so these weights are not worth keeping")


def read_weights(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file on the CPU, after its content was found to have that sha256.

    They are mapped from the file: memory is taken for what is used, and what is written to them stays in memory.
    Raises WeightsError for a file that is missing, damaged, in another format (pickles are never read), or another.
    """
    if sha256 is not None:
        verify(path, sha256)
    try:
        with path.open("rb") as file:
            kind = _kind(file)
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    except OSError as error:
        raise WeightsError(f"cannot read the weights {path}: {error.strerror or error}") from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is {kind}, so nothing of it is read ({error})") from None
    return tensors


def read_about(path: Path) -> dict[str, Any]:
    """Return what a file written by `save_weights` says about itself; WeightsError when it is damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {}).get("mimzoo", "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(f"cannot read what {path} says about itself ({error})") from None
    return about


def is_pickle(file: BinaryIO) -> bool:
    """Return whether an open file begins as a pickle does, or as an archive of torch.save."""
    file.seek(0)
    return file.read(4).startswith((ZIP, PICKLE))


def _kind(file: BinaryIO) -> str:
    if is_pickle(file):
        return "a pickle (as torch.save writes), which can run code when it is opened, not a safetensors file"
    return "a truncated or damaged safetensors file, or none at all"


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    grids: Collection[str] = (),
    inputs: Collection[str] = (),
    fresh: Collection[str] = (),
) -> LoadReport:
    """Return the report of loading `state` into a module, all of it or nothing; the module takes the tensors over.

    `grids` names parameters (1, D, GX, GY, GZ) that may be resized trilinearly; `inputs` those whose axis 1 is the
    input channels, which may be adapted; of those in `fresh` the module keeps its own where the state has nothing that
    fits, and what the state has under such names may be left over. Tensors take the precision of the module.
    Raises WeightsError that names up to three keys when anything else is missing, unexpected or does not fit.
    """
    wanted = module.state_dict()
    fitted = {key: _fit(state[key], wanted[key], key in grids, key in inputs) for key in wanted if key in state}
    report = _report(wanted, state, fitted)
    amiss = _without(report, set(fresh))
    if not amiss.complete():
        raise WeightsError(f"these weights do not fit the module: {_complaint(amiss, wanted, state)}")
    taken = {key: tensor for key, tensor in fitted.items() if tensor is not None}
    module.load_state_dict({**wanted, **taken}, assign=True)
    return report


def _without(report: LoadReport, names: set[str]) -> LoadReport:
    """Return the report without what is amiss under these names."""
    amiss = ("missing", "unexpected", "unfit")
    return replace(report, **{what: tuple(n for n in getattr(report, what) if n not in names) for what in amiss})


def _fit(given: Tensor, wanted: Tensor, is_grid: bool, is_input: bool) -> Tensor | None:
    """Return the given tensor in the wanted shape and precision, or None when that cannot be."""
    if given.is_floating_point() != wanted.is_floating_point():
        return None
    if given.shape == wanted.shape:
        return given.to(wanted.dtype)
    if is_grid and given.dim() == wanted.dim() == 5 and given.shape[:2] == wanted.shape[:2]:
        return resize_grid(given.to(wanted.dtype), tuple(wanted.shape[2:]))
    if is_input and given.dim() == wanted.dim() and _without_axis_1(given) == _without_axis_1(wanted):
        return adapt_channels(given.to(wanted.dtype), wanted.shape[1])
    return None


def _without_axis_1(tensor: Tensor) -> tuple[int, ...]:
    return (*tensor.shape[:1], *tensor.shape[2:])


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Return a weight (D, C, ...) for another number of input channels: (D, channels, ...).

    To more channels they are repeated in turn and divided by how often; to fewer, their sum is shared out evenly.
    So a volume that is alike in all its channels gives the response that it gave before.
    """
    before = weight.shape[1]
    if channels < before:
        return weight.sum(1, keepdim=True).div(channels).expand(-1, channels, *weight.shape[2:]).contiguous()
    source = torch.arange(channels) % before
    # (channels,) -> (1, channels, 1, ...)
    times = torch.bincount(source)[source].reshape(1, channels, *[1] * (weight.dim() - 2))
    return weight[:, source] / times.to(weight.dtype)


def _report(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], fitted: Mapping[str, Tensor | None]
) -> LoadReport:
    changed = [key for key, tensor in fitted.items() if tensor is not None and state[key].shape != tensor.shape]
    # What was adapted to other channels differs on axis 1, what was resized on the axes of the grid.
    adapted = tuple(key for key in changed if state[key].shape[1] != wanted[key].shape[1])
    return LoadReport(
        loaded=tuple(key for key, tensor in fitted.items() if tensor is not None and key not in changed),
        resized=tuple(key for key in changed if key not in adapted),
        adapted=adapted,
        missing=tuple(key for key in wanted if key not in state),
        unexpected=tuple(key for key in state if key not in wanted),
        unfit=tuple(key for key, tensor in fitted.items() if tensor is None),
    )


def _complaint(report: LoadReport, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    shapes = tuple(
        f"{key} ({sized(tuple(state[key].shape))} {_dtype(state[key])} for "
        f"{sized(tuple(wanted[key].shape))} {_dtype(wanted[key])})"
        for key in report.unfit
    )
    parts = {"missing": report.missing, "unexpected": report.unexpected, "of another shape or kind": shapes}
    return "; ".join(f"{len(names)} {what}: {_few(names)}" for what, names in parts.items() if names)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
