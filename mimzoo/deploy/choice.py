"""What runs a graph, as it is asked for, and what every engine is."""

from dataclasses import dataclass
from typing import Literal, Protocol

from mimzoo.errors import MimzooError
from mimzoo.grids import Floats

EngineName = Literal["tensorrt", "cuda", "openvino", "cpu"]
Precision = Literal["float32", "bfloat16"]
VOLUME, LOGITS = "volume", "logits"


@dataclass(frozen=True)
class Choice:
    """Which engine runs a graph (None: the first that can), on how many threads (None: all), in which precision."""

    engine: EngineName | None = None
    threads: int | None = None
    precision: Precision = "float32"


class Engine(Protocol):
    """A graph that is ready to run; `about` says by what, in a few words."""

    name: EngineName
    about: str

    def run(self, windows: Floats, logits: Floats) -> None:
        """Fill in the logits (B, ...) of prepared windows (B, C, *roi), both float32 and contiguous.

        Whatever goes wrong is raised as it comes.
        """
        ...


class Unavailable(MimzooError):
    """An engine that cannot be had here, or not as it is asked for; the text says why."""
