"""Checkpoints of other projects: read without running anything in them, their tensors found and renamed."""

import argparse
import hashlib
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from mimzoo.errors import WeightsError
from mimzoo.recipes import Component, Input, Labels
from mimzoo.weights import is_pickle

# Under which a trainer keeps the tensors, and what wrappers of modules put before every name.
WRAPPERS = ("state_dict", "network_weights", "model", "net")
PREFIXES = ("module.", "_orig_mod.")
REMAKERS: list[Any] = [np.float32(0).__reduce__()[0], np.zeros(0).__reduce__()[0]]
# Plain data that trainers leave in checkpoints, besides tensors and Python's own types.
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    # By what numpy's scalars and arrays are made again, under its names before and since numpy 2
    *((made, f"numpy.{core}.multiarray.{made.__name__}") for made in REMAKERS for core in ("core", "_core")),
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u1", "?")),
]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, and the file by its content."""

    content: Mapping[str, Any]
    path: Path
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an importer makes of a checkpoint: `tensors` are `encoder.*` and, with a head, `head.*`.

    `left_out` says of tensors that have no place here why, `notes` what was decided that neither shapes nor options
    tell. With a `head` it is a segmenter of these `labels`.
    """

    encoder: Component
    input: Input
    tensors: Mapping[str, Tensor]
    left_out: Mapping[str, str]
    head: Component | None = None
    labels: Labels | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """What becomes of the tensors whose whole name a pattern matches: another name, or nothing for a reason."""

    pattern: str
    name: str | None
    reason: str = ""


def read_checkpoint(path: Path) -> Checkpoint:
    """Return what a checkpoint file holds: a safetensors file, or one of torch.save that holds plain data only.

    Raises WeightsError for a file that is missing or damaged, or whose pickle asks for code to be run: then none is.
    """
    try:
        with path.open("rb") as file:
            sha256, pickled = hashlib.file_digest(file, "sha256").hexdigest(), is_pickle(file)
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"cannot read the checkpoint {path}: {error.strerror or error}") from None
    content = _unpickle(path) if pickled else _read_safetensors(path)
    return Checkpoint(content, path, sha256, size)


def _unpickle(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        wants = f"asks for {asked[1]}" if asked else "holds more than tensors and plain data"
        raise WeightsError(
            f"{path} {wants}, which could run code, so nothing of it is read; "
            'save its tensors alone with torch.save({"state_dict": model.state_dict()}, FILE) where you trust it'
        ) from None
    except (RuntimeError, ValueError, EOFError, KeyError, OSError) as error:
        raise WeightsError(f"{path} is a damaged checkpoint, so nothing of it is read ({_line(error)})") from None
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a checkpoint's mapping of names to tensors")
    return content


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        return dict(safetensors.torch.load_file(path))
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise WeightsError(
            f"{path} is neither a checkpoint of torch.save nor a safetensors file ({_line(error)})"
        ) from None


def _line(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__


def tensors_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name: out of its wrapper, without the leading prefixes of module wrappers.

    A prefix is taken off only where every name has it. Raises WeightsError where there are no tensors.
    """
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"there are no tensors in it, only {', '.join(map(str, list(content)[:5])) or 'nothing'}")
    for prefix in PREFIXES * 2:
        if all(name.startswith(prefix) for name in state):
            state = below(state, prefix)
    return state


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, under the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def translate(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors under the names that the first matching rules give them, and the reasons of those left out.

    Raises WeightsError when a name matches no rule, or two tensors get one name.
    """
    renamed: dict[str, Tensor] = {}
    left_out: dict[str, str] = {}
    for name, tensor in state.items():
        rule, match = _first(rules, name, state)
        if rule.name is None:
            left_out[name] = rule.reason
            continue
        new = match.expand(rule.name)
        if new in renamed:
            raise WeightsError(f"two of its tensors would be called {new!r} here, one of them {name!r}")
        renamed[new] = tensor
    return renamed, left_out


def _first(rules: Sequence[Rule], name: str, state: Mapping[str, Tensor]) -> tuple[Rule, re.Match[str]]:
    for rule in rules:
        if match := re.fullmatch(rule.pattern, name):
            return rule, match
    unknown = [each for each in state if not any(re.fullmatch(rule.pattern, each) for rule in rules)]
    raise WeightsError(
        f"it is of another layout: {len(unknown)} of its {len(state)} tensors have names that this format does not "
        f"know, such as {', '.join(unknown[:3])}; see `mimzoo plugins` for other formats"
    )


def pick(state: Mapping[str, Tensor], name: str) -> Tensor:
    """Return a tensor that every checkpoint of a layout has; WeightsError when it is not there."""
    if name not in state:
        raise WeightsError(f"it is of another layout: it has no tensor {name!r}, but {', '.join(list(state)[:3])} ...")
    return state[name]


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Return how many different numbers the first group of a pattern takes at the beginning of names."""
    return len({match[1] for name in state if (match := re.match(pattern, name))})
