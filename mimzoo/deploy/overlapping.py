"""Reading, computing and writing at once: while one scan is computed, the next is read and the last is written."""

import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import current_thread, main_thread
from typing import Any, Generic, TypeVar

from mimzoo.errors import MimzooError

Job = TypeVar("Job")
Read = TypeVar("Read")
Made = TypeVar("Made")
Done = TypeVar("Done")
# What fails one job and stops no other.
FAILURES = (MimzooError, OSError, MemoryError)


@dataclass(frozen=True)
class Line(Generic[Job, Read, Made, Done]):
    """What is done with each job, one after the other: `read` and `write` in threads of their own.

    `beside(job, current)` returns whether a job may be read while another is computed; else it waits until that one is
    written.
    """

    read: Callable[[Job], Read]
    compute: Callable[[Job, Read], Made]
    write: Callable[[Job, Made], Done]
    beside: Callable[[Job, Job], bool]

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Done | Exception]]:
        """Yield each job in order with what `write` returned, or with the error that it failed on.

        One job at most is read ahead, and one written behind. Raises any error that is none of FAILURES, and what
        interrupts the process; jobs that are being read or written then are finished first.
        """
        coming = iter(jobs)
        ahead: Future[Read] | None = None
        behind: tuple[Job, Future[Done]] | None = None
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            try:
                job = next(coming, None)
                while job is not None:
                    ahead = ahead or reader.submit(self.read, job)
                    # A scan is in memory before the next one is asked whether there is room beside it.
                    failed = ahead.exception() is not None
                    following = next(coming, None)
                    early = following is not None and (failed or self.beside(following, job))
                    later = reader.submit(self.read, following) if early and following is not None else None
                    made = self._made(job, ahead)
                    ahead = later
                    if behind is not None:
                        yield self._outcome(*behind)
                    behind = (job, writer.submit(self._finish, job, made))
                    del made
                    if following is not None and not early:
                        yield self._outcome(*behind)
                        behind = None
                    job = following
                if behind is not None:
                    yield self._outcome(*behind)
            finally:
                # An error that ends all is held by these, and by its traceback holds this frame: a circle.
                ahead = behind = None

    def _made(self, job: Job, reading: Future[Read]) -> Made | Exception:
        try:
            return self.compute(job, reading.result())
        except FAILURES as error:
            # The frames that it came through hold the scan.
            return error.with_traceback(None)
        finally:
            del reading

    def _finish(self, job: Job, made: Made | Exception) -> Done:
        if isinstance(made, Exception):
            raise made
        return self.write(job, made)

    def _outcome(self, job: Job, writing: Future[Done]) -> tuple[Job, Done | Exception]:
        try:
            return job, writing.result()
        except FAILURES as error:
            return job, error.with_traceback(None)
        finally:
            del writing


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Let SIGTERM interrupt the block as SIGINT does, so that whatever is begun is undone on the way out."""
    if current_thread() is not main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
