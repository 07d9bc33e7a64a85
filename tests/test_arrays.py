"""Reading parts of compressed arrays: the same from memory and from disk, and never of a file that was there before."""

import numpy as np
import pytest

from mimzoo.data import arrays
from mimzoo.errors import DataError

PART = (slice(None), slice(3, 40), slice(60, 70), slice(0, 5))


def write(path, seed=0, shape=(2, 50, 70, 30)):
    voxels = np.random.default_rng(seed).standard_normal(shape).astype(np.float16)
    path.write_bytes(arrays.compress(voxels))
    return voxels


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch):
    monkeypatch.setattr(arrays, "_held", {})


@pytest.mark.parametrize("room", [0, 2**30])
def test_parts_are_those_of_the_array_whether_it_is_held_or_not(tmp_path, monkeypatch, room):
    monkeypatch.setattr(arrays, "HELD_BYTES", room)
    voxels = write(tmp_path / "a.b2nd")
    for _ in range(2):
        assert (arrays.read_part(tmp_path / "a.b2nd", voxels.shape, PART) == voxels[PART]).all()
    assert len(arrays._held) == bool(room)


def test_no_more_is_held_than_there_is_room_for(tmp_path, monkeypatch):
    size = 2 * 50 * 70 * 30 * 2
    monkeypatch.setattr(arrays, "HELD_BYTES", int(2.5 * size))
    for number in range(5):
        voxels = write(tmp_path / f"{number}.b2nd", number)
        assert (arrays.read_part(tmp_path / f"{number}.b2nd", voxels.shape, PART) == voxels[PART]).all()
    assert sum(array.nbytes for _, array in arrays._held.values()) == 2 * size


@pytest.mark.parametrize("harm", ["replaced", "deleted", "cut"])
def test_a_file_that_changed_is_not_answered_from_memory(tmp_path, harm):
    path = tmp_path / "a.b2nd"
    voxels = write(path)
    arrays.read_part(path, voxels.shape, PART)
    if harm == "replaced":
        other = write(tmp_path / "b.b2nd", 1)
        (tmp_path / "b.b2nd").replace(path)
        assert (arrays.read_part(path, voxels.shape, PART) == other[PART]).all()
        return
    if harm == "deleted":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged or gone"):
        arrays.read_part(path, voxels.shape, PART)
