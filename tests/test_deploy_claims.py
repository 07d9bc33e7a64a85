"""Claims on names: each is one process's, until that gives it back or dies."""

import errno
import subprocess
import sys
from contextlib import closing

import pytest

from mimzoo.deploy import claims
from mimzoo.deploy.claims import Claims
from mimzoo.errors import DataError

OTHER = """
import sys
from pathlib import Path
from mimzoo.deploy.claims import Claims
claims = Claims(Path(sys.argv[1]))
for line in sys.stdin:
    act, name = line.split()
    print(getattr(claims, act)(name), flush=True)
"""


class Other:
    """Another process with claims on a folder."""

    def __init__(self, folder):
        command = [sys.executable, "-c", OTHER, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, act, name):
        self.process.stdin.write(f"{act} {name}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def kill(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def other(tmp_path):
    found = Other(tmp_path)
    yield found
    found.kill()


def test_a_name_is_one_processs_until_that_gives_it_back_closes_or_dies(other, tmp_path):
    with closing(Claims(tmp_path)) as ours:
        assert ours.take("a") and other("take", "a") == "False"
        assert other("take", "b") == "True" and not ours.take("b")
        ours.release("a")
        assert other("take", "a") == "True" and not ours.take("a")
        assert other("release", "a") == "None" and ours.take("a")
    assert other("take", "a") == "True"
    with closing(Claims(tmp_path)) as again:
        assert not again.take("a")
        other.kill()
        again.wait("a")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_folder_that_allows_no_locks_is_refused(tmp_path, monkeypatch):
    import fcntl

    def none(*given):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    with closing(Claims(tmp_path)) as ours, pytest.raises(DataError, match=r"\.lock: cannot be locked \(No locks"):
        ours.take("a")


def test_where_the_system_has_none_everything_can_be_had(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with closing(claims.Claims(tmp_path)) as ours:
        assert ours.take("a")
        ours.release("a")
