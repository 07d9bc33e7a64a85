"""A training step in which nothing is computed: its operations and the memory alive after each of them.

It runs on stand-ins, tensors with a shape and no values, through the very modules that train.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from mimzoo import transformer
from mimzoo.errors import ShapeError
from mimzoo.recompute import recompute_blocks

CPU = torch.device("cpu")
# torch counts the operations of a GPU's attention, and not those of a CPU's, by which stand-ins go.
FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}
# A gradient multiplies twice for each product of the result, and one that kept none of them first does these again.
GRADIENT_FLOPS = 2.5
# What autocast computes in float32 on a GPU, and on a CPU in whatever comes (of what there is in these networks).
PRECISE = ("layer_norm", "group_norm")
LossOf = Callable[[nn.Module, dict[str, Any], int], Tensor]


@dataclass(frozen=True)
class Rehearsal:
    """What a step of `batch` crops takes: `flops`, and bytes beside the weights.

    `kept` bytes are alive between forward and backward; `alive` are those after each operation, and `gradients` those
    of them that are gradients which are done.
    """

    batch: int
    flops: int
    kept: int
    alive: tuple[int, ...]
    gradients: tuple[int, ...]


@dataclass(frozen=True)
class Way:
    """How a step is computed: in bfloat16 by autocast or in float32, with checkpointing or not, on a GPU or a CPU."""

    bfloat16: bool = False
    checkpointing: bool = False
    gpu: bool = True

    def __str__(self) -> str:
        """Return the way in words."""
        return f"{'bfloat16' if self.bfloat16 else 'float32'}{', checkpointing' if self.checkpointing else ''}"

    def computing(self) -> AbstractContextManager[None]:
        """Let stand-ins, which are on the CPU by name, be computed with as on the device of this way."""
        return like_gpu() if self.bfloat16 and self.gpu else nullcontext()

    def autocast(self) -> torch.autocast:
        """Return the precision in which the loss is computed."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16)


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations and the bytes of storages that are alive, each once, however many tensors share it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes, self.flops, self.gradients = 0, 0, 0
        self.alive: list[int] = []
        self.done: list[int] = []
        self.known: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def count(self, tensor: Tensor) -> None:
        """Count a tensor from now on, for as long as anything holds its storage."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.bytes += size
            self.known[key] = weakref.ref(storage, lambda _: self._forget(key, size))

    def _forget(self, key: int, size: int) -> None:
        del self.known[key]
        self.bytes -= size

    def count_gradient(self, parameter: Tensor) -> None:
        """Count the gradient of a parameter as done."""
        assert parameter.grad is not None  # it was accumulated just now
        self.gradients += parameter.grad.untyped_storage().nbytes()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Return what the operation does, counted."""
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        # What is remembered from a step before, such as the layout of windows, is alive in this one too.
        for each in tree_leaves((args, kwargs)):
            if isinstance(each, Tensor):
                self.count(each)
        result = func(*args, **(kwargs or {}))
        flops = FLOPS.get(func._overloadpacket)
        if flops is not None:
            self.flops += flops(*args, **(kwargs or {}), out_val=result)
        found = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        for each in found:
            self.count(each)
        # What is done with real tensors alone, such as masks, may differ from batch to batch.
        if any(isinstance(each, FakeTensor) for each in found):
            self.alive.append(self.bytes)
            self.done.append(self.gradients)
        return result


class Unlooped(torch.autograd.Function):
    """Stands in for a function with a gradient of its own, which may loop over thousands of windows.

    The gradient takes as much memory as the gradients and a copy of what was kept, in float32.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        """Return what the function does; `args` are its own, the function and the meter."""
        *given, function, meter = args
        before = meter.flops
        if function.setup_context is torch.autograd.Function.setup_context:
            result = function.forward(ctx, *given)
        else:
            result = function.forward(*given)
            function.setup_context(ctx, tuple(given), result)
        ctx.meter, ctx.flops = meter, GRADIENT_FLOPS * (meter.flops - before)
        ctx.given = [(arg.shape, arg.dtype) if isinstance(arg, Tensor) else None for arg in given]
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return gradients like the function's inputs."""
        ctx.meter.flops += int(ctx.flops)
        held = [each for each in (*ctx.saved_tensors, *gradients) if each is not None]
        copies = [torch.empty_like(each, dtype=torch.float32) for each in held]
        like = [None if one is None else copies[0].new_empty(one[0], dtype=one[1]) for one in ctx.given]
        found = [each if needed else None for each, needed in zip(like, ctx.needs_input_grad, strict=False)]
        return (*found, None, None)


@contextmanager
def like_gpu() -> Iterator[None]:
    """Let autocast act as on a GPU: norms are computed in float32, and attention is always the fused one."""
    functions = {name: getattr(torch, name) for name in PRECISE}
    few, transformer.FEW_TOKENS = transformer.FEW_TOKENS, 0

    def precise(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return function(x.float() if torch.is_autocast_enabled("cpu") else x, *args, **kwargs)

        return call

    for name, function in functions.items():
        setattr(torch, name, precise(function))
    try:
        yield
    finally:
        transformer.FEW_TOKENS = few
        for name, function in functions.items():
            setattr(torch, name, function)


@contextmanager
def unlooped(meter: Meter) -> Iterator[None]:
    """Let `Unlooped` stand in for all functions with a gradient of their own but torch's."""
    apply = torch.autograd.Function.__dict__["apply"]

    def stand_in(cls: Any, *args: Any) -> Any:
        if cls.__module__.startswith("torch."):
            return apply.__get__(None, cls)(*args)
        return apply.__get__(None, Unlooped)(*args, cls, meter)

    setattr(torch.autograd.Function, "apply", classmethod(stand_in))  # noqa: B010
    try:
        yield
    finally:
        setattr(torch.autograd.Function, "apply", apply)  # noqa: B010


class Stage:
    """A model whose tensors are stand-ins: on the CPU by name, and joined by real tensors such as masks."""

    def __init__(self, model: nn.Module) -> None:
        self.mode, self.model = FakeTensorMode(allow_non_fake_inputs=True), model.train()
        self.recomputes = False
        known: dict[int, Any] = {}
        for module in model.modules():
            for slots in (module._parameters, module._buffers):
                for name, tensor in slots.items():
                    if tensor is not None:
                        slots[name] = known.setdefault(id(tensor), self._like(tensor))

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a stand-in of a shape."""
        return FakeTensor(self.mode, torch.empty(shape, dtype=dtype, device="meta"), CPU)

    def _like(self, tensor: Tensor) -> Any:
        found = self.tensor(*tensor.shape, dtype=tensor.dtype)
        return nn.Parameter(found, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else found

    def rehearse(self, batch: dict[str, Any], loss_of: LossOf, way: Way) -> Rehearsal:
        """Return what a step takes, forward and backward, of a batch whose tensors are stand-ins or real.

        The first rehearsal with checkpointing changes the model, so that those without it come before.
        Raises ShapeError for a model whose shapes depend on values.
        """
        if way.checkpointing and not self.recomputes:
            recompute_blocks(self.model)
            self.recomputes = True
        meter, parameters = Meter(), [each for each in self.model.parameters() if each.requires_grad]
        hooks = [each.register_post_accumulate_grad_hook(meter.count_gradient) for each in parameters]  # type: ignore[no-untyped-call]
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            meter.count(tensor)
        weights = meter.bytes
        try:
            with meter, unlooped(meter), way.computing():
                for each in batch.values():
                    if isinstance(each, Tensor):
                        meter.count(each)
                # Autocast ends before the backward pass, as it does in training, and forgets its copies of the weights.
                with way.autocast():
                    loss = loss_of(self.model, batch, 0)
                kept = meter.bytes - weights
                torch.autograd.backward(loss)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise ShapeError(
                f"this model cannot be planned, for its shapes depend on values (in {error.func})"
            ) from None
        finally:
            self.model.zero_grad(set_to_none=True)
            for hook in hooks:
                hook.remove()
        alive = tuple(each - weights for each in meter.alive)
        return Rehearsal(len(batch["volume"]), meter.flops, kept, alive, tuple(meter.done))
