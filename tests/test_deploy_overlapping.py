"""Reading, computing and writing at once: in order, one ahead and one behind, and what fails stops nothing."""

import signal
import threading

import pytest

from mimzoo.deploy.overlapping import Line, ending_cleanly
from mimzoo.errors import ScanError


def a_line(**parts):
    same = {"read": lambda job: job, "compute": lambda job, read: read, "write": lambda job, made: made}
    return Line(**{**same, "beside": lambda job, current: True, **parts})


def test_every_job_comes_with_its_outcome_in_order():
    line = a_line(read=lambda job: job + 1, compute=lambda job, read: read * 10, write=lambda job, made: (job, made))
    for count in range(5):
        assert list(line.run(range(count))) == [(job, (job, (job + 1) * 10)) for job in range(count)]


def test_the_next_is_read_and_the_last_is_written_while_one_is_computed():
    # Each waits for the other two, so that this ends only where all three happen at once.
    together = threading.Barrier(3, timeout=20)

    def meet(number):
        def act(job, *given):
            if job == number:
                together.wait()

        return act

    line = a_line(read=meet(2), compute=meet(1), write=meet(0))
    assert [job for job, _ in line.run(range(3))] == [0, 1, 2]


def test_no_more_than_one_is_read_ahead_and_one_written_behind():
    held, most, lock = 0, 0, threading.Lock()

    def count(change):
        nonlocal held, most
        with lock:
            held += change
            most = max(most, held)

    list(a_line(read=lambda job: count(1), write=lambda job, made: count(-1)).run(range(20)))
    assert held == 0 and most <= 3


def test_where_there_is_no_room_one_is_written_before_the_next_is_read():
    events = []
    line = a_line(
        read=lambda job: events.append(("read", job)),
        write=lambda job, made: events.append(("write", job)),
        beside=lambda job, current: False,
    )
    list(line.run(range(3)))
    assert events == [(what, job) for job in range(3) for what in ("read", "write")]


@pytest.mark.parametrize("part", ["read", "compute", "write"])
@pytest.mark.parametrize("error", [ScanError("no"), OSError(28, "full"), MemoryError()])
def test_a_job_that_fails_stops_no_other(part, error):
    def act(job, *given):
        if job == 1:
            raise error
        return job

    assert list(a_line(**{part: act}).run(range(4))) == [(0, 0), (1, error), (2, 2), (3, 3)]


@pytest.mark.parametrize("part", ["read", "compute", "write"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_a_mistake_or_an_interruption_ends_all_and_what_was_begun_is_finished(part, error):
    written, before = [], threading.active_count()

    def act(job, *given):
        if job == 1:
            raise error
        written.append(job)

    whole = {"write": lambda job, made: written.append(job)} if part != "write" else {}
    with pytest.raises(error):
        list(a_line(**{**whole, part: act}).run(range(4)))
    assert 0 in written and threading.active_count() == before


def test_a_request_to_end_interrupts_and_what_was_there_before_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), ending_cleanly():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_threads_other_than_the_main_one_leave_signals_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def act():
        with ending_cleanly():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    assert seen == [before]
