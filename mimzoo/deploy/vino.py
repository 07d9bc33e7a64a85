"""Graphs run by OpenVINO: the fastest engine on processors, and the one that computes in bfloat16."""

import sys
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from mimzoo.deploy.choice import VOLUME, Choice, EngineName, Precision, Unavailable
from mimzoo.deploy.kept import keep, kept_path, read_kept
from mimzoo.grids import Floats

DEVICE = "CPU"
# By precision: what OpenVINO calls it, and the capability that a processor must have for it.
PRECISIONS: dict[Precision, tuple[str, str]] = {"float32": ("f32", "FP32"), "bfloat16": ("bf16", "BF16")}


class VinoEngine:
    """A graph compiled for this processor; Unavailable without OpenVINO, or where the precision cannot be had."""

    name: EngineName = "openvino"

    def __init__(self, model: Path, choice: Choice) -> None:
        openvino = _openvino()
        core = _core(openvino)
        hint, capability = PRECISIONS[choice.precision]
        if capability not in core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"):
            raise Unavailable(f"this processor does not compute in {choice.precision}")
        compiled, content = _compiled(openvino, core, model, _settings(choice, hint))
        # Left alone, OpenVINO takes bfloat16 where it can; what it computes in must not go unnoticed.
        given = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if given != hint:
            raise Unavailable(f"OpenVINO computes in {given} where {choice.precision} was asked for")
        self.request, self.tensor = compiled.create_infer_request(), partial(openvino.Tensor, shared_memory=True)
        # Its weights may lie in the bytes that it was read from, which OpenVINO does not hold on to; they go last.
        self.content = content
        threads = compiled.get_property("INFERENCE_NUM_THREADS")
        version = openvino.__version__.split("-")[0]
        self.about = f"OpenVINO {version}, {threads} thread(s)"

    def run(self, windows: Floats, logits: Floats) -> None:
        """Fill in the logits of windows, one after the other, which are read and written where they are."""
        for number in range(len(windows)):
            self.request.set_input_tensor(self.tensor(windows[number : number + 1]))
            self.request.set_output_tensor(self.tensor(logits[number : number + 1]))
            self.request.infer(share_outputs=True)


def _compiled(openvino: Any, core: Any, model: Path, settings: dict[str, Any]) -> tuple[Any, Any]:
    """Return a graph compiled for this processor, and the bytes in which an earlier process kept it so.

    Without these it is compiled now, and kept.
    """
    details = (openvino.__version__, core.get_property(DEVICE, "FULL_DEVICE_NAME"), sorted(settings.items()))
    kept = kept_path(model, f"openvino-{settings['INFERENCE_PRECISION_HINT']}", *details)
    content = None if kept is None else read_kept(kept)
    if content is not None:
        # Another build of the same version may not take it; the graph itself is at hand.
        with suppress(RuntimeError):
            return core.import_model(openvino.Tensor(content, shared_memory=True), DEVICE, settings), content
    graph = core.read_model(model)
    # Windows go one by one, which batches are no faster than; a graph of one fixed shape is (Swin UNETR: 12 %).
    graph.reshape({VOLUME: [1, *graph.input(VOLUME).partial_shape[1:]]})
    compiled = core.compile_model(graph, DEVICE, settings)
    if kept is not None:
        keep(kept, compiled.export_model().getbuffer())
    return compiled, None


@cache
def _core(openvino: Any) -> Any:
    """Return the one core of this process, which stays.

    Its plugin gives the thread that loads it a stack for signals, and takes that memory back when it is unloaded,
    possibly in another thread: from then on every signal, a SIGTERM too, would end in a segmentation fault.
    """
    return openvino.Core()


def _openvino() -> Any:
    """Return the module, without the package by which importing it would report its use to the makers."""
    known = "openvino_telemetry" in sys.modules
    if not known:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise Unavailable("it is not installed; pip install 'mimzoo[deploy-openvino]'") from error
    finally:
        if not known:
            del sys.modules["openvino_telemetry"]
    return openvino


def _settings(choice: Choice, hint: str) -> dict[str, Any]:
    # Pinned threads of two processes would share one core and leave the other idle.
    found = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    return found if choice.threads is None else {**found, "INFERENCE_NUM_THREADS": choice.threads}
