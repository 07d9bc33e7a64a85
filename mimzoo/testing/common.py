"""What the checks of all components share."""

import tempfile
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from mimzoo.convolutions import make_wary
from mimzoo.errors import MimzooError
from mimzoo.tokens import Size, sized
from mimzoo.weights import read_weights, save_weights

CHANNELS = 2


def require(condition: bool, name: str, sentence: str) -> None:
    """Raise AssertionError with the component's name and the sentence unless the condition holds."""
    if not condition:
        raise AssertionError(f"{name}: {sentence}")


def sample_volume(size: Sequence[int], batch: int = 2, channels: int = CHANNELS) -> Tensor:
    """Return a volume (batch, channels, *size), always the same one."""
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


def cells(size: Size, unit: Size) -> Size:
    """Return how many whole units lie along each axis."""
    return (size[0] // unit[0], size[1] // unit[1], size[2] // unit[2])


def half_mask(cells: Size) -> Tensor:
    """Return a mask (2, *cells) that hides half of the cells of each sample, others in each."""
    generator = torch.Generator().manual_seed(3)
    order = torch.rand(2, prod(cells), generator=generator).argsort(1)
    # (2, N) -> (2, *cells)
    return (order < prod(cells) // 2).reshape(2, *cells)


def uniform_mask(cells: Size) -> Tensor:
    """Return a mask (2, *cells) that hides one of each two neighbours along the first axis of even length.

    Raises AssertionError when there is no such axis.
    """
    axis = next((axis for axis, count in enumerate(cells) if count % 2 == 0), None)
    if axis is None:
        raise AssertionError(f"{sized(cells)} units cannot be paired; use a crop with an even number along some axis")
    pairs = [count // 2 if a == axis else count for a, count in enumerate(cells)]
    first = torch.rand(2, *pairs, generator=torch.Generator().manual_seed(3)) < 0.5
    # 2 x (2, *pairs) -> the two of a pair next to each other -> (2, *cells)
    return torch.stack([first, ~first], dim=axis + 2).flatten(axis + 1, axis + 2)


def check_refused(name: str, call: Callable[[], Any], what: str) -> None:
    """Raise AssertionError unless the call ends in a MimzooError."""
    try:
        call()
    except MimzooError:
        return
    except Exception as error:
        raise AssertionError(f"{name}: {what} ends in {type(error).__name__} and not in a MimzooError") from error
    raise AssertionError(f"{name}: {what} is not refused")


def check_module(name: str, build: Callable[[], nn.Module], run: Callable[[nn.Module], Any]) -> None:
    """Check what holds of every module: one seed gives one module; gradients, bfloat16, and a round trip to a file.

    Of the file it is made again as it is loaded: built without memory for its parameters, which are then the file's.
    """
    module, twin = build(), build()
    state, other = module.state_dict(), twin.state_dict()
    same = state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)
    require(same, name, "built twice under one seed, its weights differ")
    _check_gradients(name, module, run)
    _check_bfloat16(name, module, run)
    _check_round_trip(name, module, build, run)


def _outputs(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def _check_gradients(name: str, module: nn.Module, run: Callable[[nn.Module], Any]) -> None:
    generator = torch.Generator().manual_seed(4)
    # Random weights: the plain sum of a normalised map is constant and would have no gradient.
    weighted = [(found * torch.randn(found.shape, generator=generator)).sum() for found in _outputs(run(module))]
    torch.autograd.backward(torch.stack(weighted).sum())
    for key, parameter in module.named_parameters():
        require(parameter.grad is not None, name, f"no gradient reaches the parameter {key!r}")
        finite = parameter.grad is None or bool(parameter.grad.isfinite().all())
        require(finite, name, f"the gradient of {key!r} holds NaN or Inf")


@torch.no_grad()
def _check_bfloat16(name: str, module: nn.Module, run: Callable[[nn.Module], Any]) -> None:
    make_wary(module)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = _outputs(run(module))
    except RuntimeError as error:
        raise AssertionError(f"{name}: it cannot run in bfloat16 ({error})") from error
    require(all(bool(output.isfinite().all()) for output in found), name, "in bfloat16 its output holds NaN or Inf")


def _build_empty(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    try:
        with init_empty_weights(include_buffers=False):
            return build()
    except Exception as error:
        raise AssertionError(
            f"{name}: it cannot be built without memory for its parameters, on the meta device, so that it cannot be "
            f"loaded ({type(error).__name__}: {error})"
        ) from error


@torch.no_grad()
def _check_round_trip(
    name: str, module: nn.Module, build: Callable[[], nn.Module], run: Callable[[nn.Module], Any]
) -> None:
    for parameter in module.parameters():
        parameter.add_(0.01)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        try:
            sha256, _ = save_weights(path, module.state_dict(), {})
        except MimzooError as error:
            raise AssertionError(f"{name}: its weights cannot be saved: {error}") from error
        twin = _build_empty(name, build)
        twin.load_state_dict(read_weights(path, sha256), assign=True)
    same = all(torch.equal(a, b) for a, b in zip(_outputs(run(module)), _outputs(run(twin)), strict=True))
    require(
        same, name, "saved and loaded again, it computes something else; is a buffer or parameter not in its state?"
    )
