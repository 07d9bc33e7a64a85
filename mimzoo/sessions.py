"""When, how long and on what a run trained: `sessions.json` in its folder, a session for each time it was started."""

import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mimzoo.errors import DataError
from mimzoo.files import replacing
from mimzoo.recipes import Block

FILE = "sessions.json"
PACKAGES = ("mimzoo", "torch", "accelerate", "monai", "numpy", "blosc2")
CPUINFO = Path("/proc/cpuinfo")


class Machine(Block):
    """What a session trained on: the device of each process, and the processor beside it."""

    device: str
    processes: int
    precision: str
    processor: str
    cores: int


class Session(Block):
    """A stretch of training without a break: `begun` in UTC, the steps from `first_step` (0: none before) on."""

    begun: str
    seconds: float
    first_step: int
    last_step: int
    machine: Machine
    versions: dict[str, str]


SESSIONS = TypeAdapter(tuple[Session, ...])


class Sitting:
    """The session in progress; `save` writes what it has done so far after those before it."""

    def __init__(self, folder: Path, step: int, device: str, processes: int, precision: str) -> None:
        self.path, self.earlier = folder / FILE, read_sessions(folder)
        self.begun, self.clock, self.first_step = datetime.now(UTC), time.monotonic(), step
        processor, cores = processor_name(), os.cpu_count() or 1
        self.machine = Machine(
            device=device, processes=processes, precision=precision, processor=processor, cores=cores
        )
        self.versions = installed_versions()

    def save(self, step: int) -> None:
        """Write the session as it is at a step."""
        session = Session(
            begun=f"{self.begun:%Y-%m-%d %H:%M:%S} UTC",
            seconds=round(time.monotonic() - self.clock, 1),
            first_step=self.first_step,
            last_step=step,
            machine=self.machine,
            versions=self.versions,
        )
        with replacing(self.path) as temporary:
            temporary.write_bytes(SESSIONS.dump_json((*self.earlier, session), indent=1) + b"\n")


def read_sessions(folder: Path) -> tuple[Session, ...]:
    """Return the sessions of the run in a folder, the first one first; none where nothing is known of them.

    Raises DataError for a file that is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return ()
    try:
        return SESSIONS.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(f"{path}: {where}: {first['msg']}; remove it, nothing but the report depends on it") from None


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that training depends on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor_name() -> str:
    """Return what the machine calls its processor, or its architecture where it does not say."""
    lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines() if CPUINFO.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
