"""Free memory as the kernel's files tell it, in a container, in a job of one, and on a machine without either."""

import pytest

from mimzoo import files

V2 = ("memory.max", "memory.current", "inactive_file {}\nactive_file {}\nanon 5\n")
V1 = (
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "inactive_file 7\ntotal_inactive_file {}\ntotal_active_file {}\n",
)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 5 kB without control groups."""
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    5 kB\n")
    monkeypatch.setattr(files, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(files, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(files, "CGROUP", tmp_path / "cgroup")
    return tmp_path


def limit(machine, group, most, used, cached=(0, 0), names=V2):
    folder = machine / "cgroup" / group.strip("/")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(names[:2], (most, used), strict=True):
        (folder / name).write_text(f"{text}\n")
    (folder / "memory.stat").write_text(names[2].format(*cached))


def test_memory_that_cannot_be_told_is_not_guessed(machine):
    (machine / "meminfo").unlink()
    assert files.free_memory() is None


def test_a_container_allows_what_its_limit_leaves(machine):
    assert files.free_memory() == 5 * 1024
    limit(machine, "", "max", 1000)
    assert files.free_memory() == 5 * 1024
    limit(machine, "", 3000, 1000)
    assert files.free_memory() == 2000


@pytest.mark.parametrize(("group", "names"), [("", V2), ("memory", V1)])
def test_pages_of_files_are_free_however_many_were_read(machine, group, names):
    limit(machine, group, 3000, 2900, (1500, 500), names)
    assert files.free_memory() == 2100


@pytest.mark.parametrize(
    ("own", "root", "names"), [("0::/jobs/one\n", "", V2), ("9:cpu:/x\n4:memory:/jobs/one\n0::/\n", "memory", V1)]
)
def test_the_tightest_group_above_this_process_counts_and_no_other(machine, own, root, names):
    (machine / "own").write_text(own)
    limit(machine, f"{root}/jobs/one/inside", 10, 9, names=names)
    limit(machine, f"{root}/jobs/other", 10, 9, names=names)
    limit(machine, f"{root}/jobs/one", 4000, 1000, names=names)
    assert files.free_memory() == 3000
    limit(machine, f"{root}/jobs", 4000, 3500, (0, 100), names)
    assert files.free_memory() == 600


def test_a_path_that_only_the_host_knows_stands_for_the_root(machine):
    (machine / "own").write_text("0::/docker/12ab\n")
    limit(machine, "", 3000, 1000)
    assert files.free_memory() == 2000


def test_this_machine_has_some():
    free = files.free_memory()
    assert free is None or free > 0
