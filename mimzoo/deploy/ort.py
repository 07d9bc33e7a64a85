"""Graphs run by ONNX Runtime: on any processor, and on NVIDIA's devices with CUDA or TensorRT."""

from pathlib import Path
from typing import Any

import numpy as np

from mimzoo.deploy.choice import LOGITS, VOLUME, Choice, EngineName, Unavailable
from mimzoo.deploy.kept import kept_path
from mimzoo.grids import Floats

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
# What each engine asks of ONNX Runtime: the provider that it is named for, then those for what that one cannot do.
PROVIDERS: dict[EngineName, tuple[str, ...]] = {"tensorrt": (TENSORRT, CUDA, CPU), "cuda": (CUDA, CPU), "cpu": (CPU,)}
ERRORS_ONLY = 3


class OrtEngine:
    """A graph in a session of ONNX Runtime; Unavailable where that is not installed or lacks what the engine needs."""

    def __init__(self, name: EngineName, model: Path, choice: Choice) -> None:
        ort = _onnxruntime()
        first = PROVIDERS[name][0]
        if first not in ort.get_available_providers():
            raise Unavailable(f"the installed ONNX Runtime is built without it ({first})")
        if choice.precision != "float32":
            raise Unavailable(f"ONNX Runtime computes in float32 alone, not in {choice.precision}")
        providers = [(provider, _settings(provider, model)) for provider in PROVIDERS[name]]
        self.name, self.session = name, ort.InferenceSession(str(model), _options(ort, choice), providers)
        # A provider whose libraries are not found is left out in silence, and the next one takes its place.
        given = self.session.get_providers()[0]
        if given != first:
            raise Unavailable(f"ONNX Runtime fell back from {first} to {given}; are its libraries installed?")
        self.session.disable_fallback()
        how = f"{choice.threads or 'all'} thread(s)" if name == "cpu" else first
        self.about = f"ONNX Runtime {ort.__version__}, {how}"

    def run(self, windows: Floats, logits: Floats) -> None:
        """Fill in the logits of windows, which the device reads and writes where they are."""
        binding = self.session.io_binding()
        binding.bind_input(VOLUME, "cpu", 0, np.float32, windows.shape, windows.ctypes.data)
        binding.bind_output(LOGITS, "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        self.session.run_with_iobinding(binding)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise Unavailable("ONNX Runtime is not installed; pip install 'mimzoo[deploy]'") from error
    return onnxruntime


def _options(ort: Any, choice: Choice) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = choice.threads or 0
    # Buffers planned ahead for the whole graph make it 4 % faster, and take most of its memory (Swin UNETR: 1.7 GB).
    options.enable_mem_pattern = False
    return options


def _settings(provider: str, model: Path) -> dict[str, str]:
    if provider == CUDA:
        # TF32 would keep 10 bits of a float32's 23.
        return {"use_tf32": "0"}
    if provider == TENSORRT:
        # TensorRT takes minutes for a graph; it makes the folder, and checks itself that what lies there will do.
        kept = kept_path(model, "tensorrt")
        return {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(kept)} if kept else {}
    return {}
