"""Which engine runs a graph: the first of TensorRT, CUDA, OpenVINO and ONNX Runtime's own that can, and which did."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from mimzoo.deploy.choice import Choice, Engine, EngineName, Unavailable
from mimzoo.deploy.metadata import REMEDY
from mimzoo.deploy.ort import OrtEngine
from mimzoo.deploy.vino import PRECISIONS, VinoEngine
from mimzoo.errors import ExportError, MimzooError, UnknownNameError, suggest

# In this order; the last one is always there.
ENGINES: dict[EngineName, Callable[[Path, Choice], Engine]] = {
    "tensorrt": partial(OrtEngine, "tensorrt"),
    "cuda": partial(OrtEngine, "cuda"),
    "openvino": VinoEngine,
    "cpu": partial(OrtEngine, "cpu"),
}


def open_engine(model: Path, choice: Choice) -> tuple[Engine, dict[str, str]]:
    """Return the engine that runs an ONNX file, and why those that come before it in the order do not.

    Raises MimzooError when the engine that is asked for cannot be had here (or none, in the precision asked for), and
    ExportError for a file that none of them can run.
    """
    passed: dict[str, str] = {}
    damaged = False
    for name in [choice.engine] if choice.engine else ENGINES:
        try:
            return ENGINES[name](model, choice), passed
        except Unavailable as error:
            passed[name] = str(error)
        # Engines' own errors share no base class but this one.
        except Exception as error:
            damaged, passed[name] = True, first_line(error)
    if damaged:
        raise ExportError(f"{model}: not an ONNX file that can be run ({_listed(passed)}){REMEDY}")
    if choice.engine is not None:
        raise MimzooError(f"the engine {choice.engine!r} cannot be had: {passed[choice.engine]}")
    raise MimzooError(f"no engine can run {model} in {choice.precision} ({_listed(passed)})")


def make_choice(engine: str | None, threads: int | None, precision: str) -> Choice:
    """Return the choice that names and numbers as users type them make.

    Raises UnknownNameError for an engine or precision that nobody offers, MimzooError for less than one thread.
    """
    if threads is not None and threads < 1:
        raise MimzooError(f"threads must be at least 1, got {threads}")
    known = {name: name for name in ENGINES}
    if engine is not None and engine not in known:
        raise UnknownNameError(f"nobody offers the engine {engine!r}; {suggest(engine, known)}")
    precisions = {name: name for name in PRECISIONS}
    if precision not in precisions:
        raise UnknownNameError(f"nobody offers the precision {precision!r}; {suggest(precision, precisions)}")
    return Choice(known[engine] if engine else None, threads, precisions[precision])


def _listed(passed: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in passed.items())


def first_line(error: Exception) -> str:
    """Return the beginning of an error's text on one line."""
    return " ".join(str(error).split())[:200]
