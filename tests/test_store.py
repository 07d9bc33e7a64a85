"""The prepared store: what it holds, what it spares, and that neither kill, full disk nor company can damage it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scans import MR, make_dataset, make_pair, save

from mimzoo.data.arrays import SUFFIX
from mimzoo.data.datasets import Case, Dataset, read_dataset
from mimzoo.data.store import prepare_dataset, store_folder
from mimzoo.errors import DataError, ShapeError
from mimzoo.recipes import Input
from mimzoo.volume import prepare, prepare_labels, read_labels, read_scan

LABELS = {1: "Left", 2: "Right"}
# Runs prepare_dataset on a folder in a process of its own: python -c RUN data root [bytes a file may have]
RUN = """
import resource, sys
from pathlib import Path
from scans import MR
from mimzoo.data.datasets import read_dataset
from mimzoo.data.store import prepare_dataset
from mimzoo.errors import DataError
data, root, *limit = sys.argv[1:]
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit[0]), int(limit[0])))
print("begin", flush=True)
try:
    prepare_dataset(read_dataset(data), MR, {1: "Left", 2: "Right"}, Path(root), print)
except DataError as error:
    sys.exit(str(error))
"""


def environment():
    """Return the environment in which a new process finds what this one finds."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}


def begin(data, root, *limit):
    """Return a process that prepares `data` below `root`."""
    command = [sys.executable, "-c", RUN, str(data), str(root), *map(str, limit)]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def contents(folder):
    """Return the bytes of every file of a store but its lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def partial(folder):
    """Return what should not be there: temporary files, and arrays of no record."""
    records = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    known = {name for record in records for name, _ in record["files"].values()}
    return [p.name for p in folder.iterdir() if p.suffix == ".part" or (p.suffix != ".json" and p.name not in known)]


@pytest.fixture
def folder(tmp_path):
    return make_dataset(tmp_path / "boxes")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "prepared"


# --- what it holds ----------------------------------------------------------------------------------------------------


def check_case(stored, case, input, labels):
    """Check that a stored case is what volume.py makes of it."""
    prepared = prepare(read_scan(case.image, len(input.channels)), input)
    voxels, masks = stored.read()
    assert voxels.dtype == np.float32
    np.testing.assert_allclose(voxels, prepared.voxels, rtol=2**-11, atol=2**-24)
    np.testing.assert_array_equal(voxels, prepared.voxels.astype(np.float16))
    assert stored.grid.shape == prepared.grid.shape
    np.testing.assert_array_equal(stored.grid.affine, prepared.grid.affine)
    np.testing.assert_array_equal(stored.minimum, voxels.min(axis=(1, 2, 3)))
    if labels is None or case.label is None:
        assert masks is None and stored.foreground == {}
    else:
        expected = prepare_labels(read_labels(case.label, labels), input.spacing_mm)
        assert masks.dtype == np.uint8
        np.testing.assert_array_equal(masks, expected.voxels)
        check_foreground(stored.foreground, masks)


def check_foreground(foreground, masks):
    assert sorted(foreground) == [value for value in np.unique(masks) if value]
    for value, voxels in foreground.items():
        assert len(np.unique(voxels, axis=0)) == len(voxels) == min(1000, (masks == value).sum())
        assert (masks[tuple(voxels.T)] == value).all()


def test_stored_cases_are_the_prepared_scans(folder, root):
    dataset = read_dataset(folder)
    store = prepare_dataset(dataset, MR, LABELS, root)
    assert [case.id for case in store.cases("training")] == ["case_000", "case_001", "case_002"]
    for split in ("training", "validation", "unlabelled"):
        for stored, case in zip(store.cases(split), dataset.cases(split), strict=True):
            check_case(stored, case, MR, LABELS)


def test_without_a_label_table_labels_are_not_read(folder, root):
    (folder / "labels" / "case_000.nii.gz").write_bytes(b"damaged")
    dataset = read_dataset(folder)
    store = prepare_dataset(dataset, MR, None, root)
    check_case(store.cases("training")[0], dataset.training[0], MR, None)


INPUTS = {
    "hippocampus": {"channels": ["MR"], "spacing_mm": (1.5, 1, 0.8), "intensity": {"mode": "zscore"}},
    "headneck-ct": {
        "channels": ["CT"],
        "spacing_mm": (5, 4, 3),
        "intensity": {"mode": "window_hu", "window_hu": (-200, 300)},
    },
    "fixtures/spinalcord": {"channels": ["MR"], "spacing_mm": (1, 1.2, 1), "intensity": {"mode": "percentile"}},
}


@pytest.mark.parametrize("name", INPUTS)
def test_real_scans(data_root, root, name):
    dataset, input = read_dataset(data_root / name), Input.model_validate({**INPUTS[name], "crop": (32, 32, 32)})
    labels = dataset.labels or {1: "cord"}
    few = Dataset(name, dataset.folder, dataset.training[:2], dataset.validation[:1], dataset.unlabelled[:1])
    store = prepare_dataset(few, input, labels, root)
    for split, cases in store.splits.items():
        for stored, case in zip(cases, getattr(few, split), strict=True):
            check_case(stored, case, input, labels)
            assert stored.grid.spacing_mm == pytest.approx(input.spacing_mm)


def test_several_channels(tmp_path, root):
    voxels = np.random.default_rng(0).normal(0, 5, (12, 70, 14, 2)).astype(np.float32)
    case = Case("two", (save(tmp_path / "two.nii.gz", voxels),))
    input = Input.model_validate({**MR.model_dump(), "channels": ["T1", "T2"]})
    store = prepare_dataset(Dataset("two", tmp_path, unlabelled=(case,)), input, None, root)
    stored = store.cases("unlabelled")[0]
    check_case(stored, case, input, None)
    assert stored.read_crop((1, 60, 3), (4, 10, 6))[0].shape == (2, 4, 10, 6)


def test_crops_are_parts_of_the_whole(tmp_path, root):
    image, labels = make_pair(1, (90, 70, 33))
    case = Case("a", (save(tmp_path / "a.nii", image),), save(tmp_path / "l.nii", labels))
    stored = prepare_dataset(Dataset("a", tmp_path, (case,)), MR, LABELS, root).cases("training")[0]
    whole, masks = stored.read()
    rng = np.random.default_rng(0)
    for _ in range(50):
        start = [int(rng.integers(0, n)) for n in whole.shape[1:]]
        size = [int(rng.integers(1, n - a + 1)) for a, n in zip(start, whole.shape[1:], strict=True)]
        part = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        voxels, found = stored.read_crop(start, size)
        np.testing.assert_array_equal(voxels, whole[(slice(None), *part)])
        np.testing.assert_array_equal(found, masks[part])


@pytest.mark.parametrize(("start", "size"), [((-1, 0, 0), (4, 4, 4)), ((0, 0, 16), (4, 4, 4)), ((0, 0, 0), (0, 4, 4))])
def test_crops_that_leave_the_case(folder, root, start, size):
    stored = prepare_dataset(read_dataset(folder), MR, LABELS, root).cases("training")[0]
    with pytest.raises(ShapeError, match=r"case_000: crop .* leaves the shape \(20, 24, 18\)"):
        stored.read_crop(start, size)


def test_reading_in_many_threads(tmp_path, root):
    folder = make_dataset(tmp_path / "boxes", shape=(40, 50, 36))
    cases = prepare_dataset(read_dataset(folder), MR, LABELS, root).cases("training")
    wanted = [case.read()[0] for case in cases]
    with ThreadPoolExecutor(8) as pool:
        for n, found in enumerate(pool.map(lambda n: cases[n % 3].read()[0], range(200))):
            np.testing.assert_array_equal(found, wanted[n % 3])


def test_labels_of_many_classes_and_of_none(tmp_path, root):
    image, _ = make_pair(0, (30, 30, 30))
    many = np.arange(27000, dtype=np.uint8).reshape(30, 30, 30) % 41
    cases = [
        Case(name, (save(tmp_path / f"{name}.nii", image),), save(tmp_path / f"{name}_l.nii", labels))
        for name, labels in (("many", many), ("none", np.zeros_like(many)))
    ]
    dataset = Dataset("x", tmp_path, tuple(cases))
    stored = prepare_dataset(dataset, MR, {v: str(v) for v in range(1, 41)}, root).cases("training")
    check_foreground(stored[0].foreground, many)
    assert stored[1].foreground == {}


def test_space_on_disk(data_root, root):
    dataset = read_dataset(data_root / "hippocampus")
    store = prepare_dataset(Dataset("h", dataset.folder, dataset.training[:20]), MR, dataset.labels, root)
    raw = sum(4 * int(np.prod(case.grid.shape)) for case in store.cases("training"))
    assert sum(path.stat().st_size for path in store.folder.iterdir()) < 0.55 * raw


# --- the key, and what is done again ----------------------------------------------------------------------------------


def test_the_folder_is_keyed_by_all_that_decides_the_voxels(folder, root, tmp_path):
    dataset = read_dataset(folder)
    other = MR.model_copy(update={"spacing_mm": (1.0, 1.0, 2.0)})
    copied = read_dataset(shutil.copytree(folder, tmp_path / "copy"))
    folders = [
        store_folder(root, dataset, MR, LABELS),
        store_folder(root, dataset, MR, None),
        store_folder(root, dataset, MR, {1: "Left"}),
        store_folder(root, dataset, other, LABELS),
        store_folder(root, copied, MR, LABELS),
    ]
    assert len(set(folders)) == 5
    assert all(path.parent == root and path.name.startswith("Boxes-") for path in folders)
    crop = MR.model_copy(update={"crop": (8, 8, 8)})
    assert store_folder(root, dataset, crop, {2: "Right", 1: "Left"}) == folders[0]


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..", "", "ä ö", "x" * 500])
def test_any_name_of_a_data_set_gives_a_folder_below_the_root(root, folder, name):
    found = store_folder(root, Dataset(name, folder), MR, None)
    assert found.parent == root and found.resolve().parent == root.resolve() and len(found.name) < 80


def test_long_case_ids(tmp_path, root):
    path = save(tmp_path / "a.nii", make_pair(0)[0])
    cases = tuple(Case("ü" * 300 + end, (path,)) for end in "ab")
    store = prepare_dataset(Dataset("x", tmp_path, unlabelled=cases), MR, None, root)
    assert [case.id for case in store.cases("unlabelled")] == [case.id for case in cases]
    assert len({case.image for case in store.cases("unlabelled")}) == 2


def test_what_is_prepared_is_not_done_again(folder, root):
    first = prepare_dataset(read_dataset(folder), MR, LABELS, root)
    before = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    prepare_dataset(read_dataset(folder), MR, LABELS, root)
    assert {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before


@pytest.mark.parametrize("role", ["image", "label"])
def test_a_changed_file_is_done_again(folder, root, role):
    prepare_dataset(read_dataset(folder), MR, LABELS, root)
    path = folder / f"{role}s" / "case_001.nii.gz"
    save(path, make_pair(77)[role == "label"])
    dataset = read_dataset(folder)
    store = prepare_dataset(dataset, MR, LABELS, root)
    check_case(store.cases("training")[1], dataset.training[1], MR, LABELS)
    # Until nobody else is there, files of the former state stay for those who read them.
    again = prepare_dataset(dataset, MR, LABELS, root)
    assert partial(again.folder) == [".lock"]
    assert len(list(again.folder.glob("*.json"))) == 5


@pytest.mark.parametrize("role", ["image", "labels", "foreground"])
@pytest.mark.parametrize("harm", ["gone", "short"])
def test_a_harmed_store_is_mended(folder, root, role, harm):
    dataset = read_dataset(folder)
    store = prepare_dataset(dataset, MR, LABELS, root)
    path = next(store.folder.glob(f"case_001-*.{role}{SUFFIX[role]}"))
    path.unlink() if harm == "gone" else os.truncate(path, path.stat().st_size // 2)
    check_case(prepare_dataset(dataset, MR, LABELS, root).cases("training")[1], dataset.training[1], MR, LABELS)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "case_001"}', "case_002"])
def test_a_harmed_record_is_no_record(folder, root, text):
    dataset = read_dataset(folder)
    store = prepare_dataset(dataset, MR, LABELS, root)
    path = store.folder / "case_001.json"
    path.write_text((store.folder / f"{text}.json").read_text() if text == "case_002" else text)
    check_case(prepare_dataset(dataset, MR, LABELS, root).cases("training")[1], dataset.training[1], MR, LABELS)


@pytest.mark.parametrize("harm", ["gone", "short", "noise"])
@pytest.mark.parametrize("role", ["image", "labels", "foreground"])
def test_reading_a_harmed_case_says_so(folder, root, role, harm):
    stored = prepare_dataset(read_dataset(folder), MR, LABELS, root).cases("training")[0]
    path = next(stored.image.parent.glob(f"case_000-*.{role}{SUFFIX[role]}"))
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:60] if harm == "short" else b"noise" * 999)
    with pytest.raises(DataError, match=r"damaged or gone; delete .* and run the command again"):
        stored.foreground if role == "foreground" else stored.read()


def test_nothing_but_the_stores_own_files_is_ever_removed(folder, root):
    store = prepare_dataset(read_dataset(folder), MR, LABELS, root)
    (store.folder / "notes.txt").write_text("mine")
    (store.folder / "folder.json").mkdir()
    prepare_dataset(read_dataset(folder), MR, LABELS, root)
    assert (store.folder / "notes.txt").is_file() and (store.folder / "folder.json").is_dir()


def test_results_do_not_depend_on_workers(folder, tmp_path):
    stores = [prepare_dataset(read_dataset(folder), MR, LABELS, tmp_path / str(n), workers=n) for n in (1, 4)]
    assert contents(stores[0].folder) == contents(stores[1].folder)


def test_progress_and_splits(folder, root):
    seen = []
    dataset = read_dataset(folder)
    store = prepare_dataset(dataset, MR, None, root, lambda *news: seen.append(news), splits=("training",))
    assert [(done, total) for done, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert sorted(case for *_, case in seen) == ["case_000", "case_001", "case_002"]
    with pytest.raises(DataError, match="the split 'validation' was not prepared"):
        store.cases("validation")
    assert prepare_dataset(Dataset("none", folder), MR, None, root).cases("training") == ()


def test_a_caller_that_stops_stops_the_preparation(tmp_path, root):
    folder = make_dataset(tmp_path / "boxes", training=12)

    def stop(done, total, case):
        raise KeyboardInterrupt

    dataset = read_dataset(folder)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(dataset, MR, LABELS, root, stop)
    done = store_folder(root, dataset, MR, LABELS)
    assert partial(done) == [".lock"]
    assert len(list(done.glob("*.json"))) < 14


# --- scans that cannot be used ----------------------------------------------------------------------------------------


def test_all_bad_cases_are_reported_and_the_good_ones_kept(tmp_path, root):
    folder = make_dataset(tmp_path / "boxes", training=6)
    image, labels = make_pair(0)
    (folder / "images" / "case_000.nii.gz").write_bytes(b"no scan")
    save(folder / "images" / "case_001.nii.gz", np.full_like(image, np.nan))
    save(folder / "labels" / "case_002.nii.gz", labels * 3)
    save(folder / "labels" / "case_003.nii.gz", labels[:-1])
    save(folder / "labels" / "case_004.nii.gz", labels, spacing=(2, 2, 2))
    seen = []
    with pytest.raises(DataError) as caught:
        prepare_dataset(read_dataset(folder), MR, LABELS, root, lambda *news: seen.append(news))
    head, *lines = str(caught.value).splitlines()
    assert head == f"{folder}: 5 of 8 cases cannot be used:"
    assert [line.split(":")[0].strip() for line in lines] == [f"case_00{n}" for n in range(5)]
    for line, reason in zip(lines, ("case_000.nii", "NaN", "label value", "has shape", "mm apart"), strict=True):
        assert reason in line
    assert len(seen) == 8
    done = store_folder(root, read_dataset(folder), MR, LABELS)
    assert sorted(path.stem for path in done.glob("*.json")) == ["case_005", "case_006", "case_007"]
    assert partial(done) == [".lock"]


def test_a_wrong_number_of_channels(folder, root):
    input = Input.model_validate({**MR.model_dump(), "channels": ["T1", "T2"]})
    with pytest.raises(DataError, match="5 of 5 cases cannot be used:\n.* has 1 channel where 2 channels are expected"):
        prepare_dataset(read_dataset(folder), input, LABELS, root)


def test_many_bad_cases_are_counted_and_the_first_ones_named(tmp_path, root):
    folder = make_dataset(tmp_path / "boxes", training=10)
    input = Input.model_validate({**MR.model_dump(), "channels": ["T1", "T2"]})
    with pytest.raises(DataError) as caught:
        prepare_dataset(read_dataset(folder), input, LABELS, root)
    head, *lines = str(caught.value).splitlines()
    assert head == f"{folder}: 12 of 12 cases cannot be used:"
    assert len(lines) == 11 and lines[-1] == "  and 2 more"


def test_real_broken_scans(data_root, root):
    broken, good = data_root / "hippocampus" / "broken", read_dataset(data_root / "hippocampus").training[0]
    wrong = Case("wrong", (good.image,), broken / "label_hippocampus_281.nii.gz")
    with pytest.raises(DataError, match="1 of 2 cases cannot be used:\n  wrong: "):
        prepare_dataset(Dataset("broken", broken, (good, wrong)), MR, {1: "a", 2: "b"}, root)


def test_a_scan_that_vanishes(folder, root):
    dataset = read_dataset(folder)
    dataset.training[0].image.unlink()
    with pytest.raises(DataError, match=r"case_000: .*case_000\.nii\.gz: cannot be read \(No such file or directory\)"):
        prepare_dataset(dataset, MR, LABELS, root)


# --- kill, full disk, company -----------------------------------------------------------------------------------------


def check_resumed(folder, root, reference):
    """Check that going on makes the store that one undisturbed preparation makes."""
    store = prepare_dataset(read_dataset(folder), MR, LABELS, root)
    assert contents(store.folder) == contents(reference.folder)


@pytest.fixture
def many(tmp_path):
    """A data set that takes a while, and its store."""
    folder = make_dataset(tmp_path / "many", training=24, shape=(48, 48, 40))
    return folder, prepare_dataset(read_dataset(folder), MR, LABELS, tmp_path / "reference")


def test_killed_at_any_time(many, root):
    folder, reference = many
    done = store_folder(root, read_dataset(folder), MR, LABELS)
    chance = random.Random(0)
    committed, amid, cases = [0], 0, len(list(reference.folder.glob("*.json")))
    while amid < 4:
        process = begin(folder, root)
        # "begin", the cases that are there already, and up to four new ones
        for _ in range(1 + committed[-1] + chance.randrange(5)):
            process.stdout.readline()
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for record in (json.loads(path.read_text()) for path in done.glob("*.json")):
            assert all((done / name).stat().st_size == size for name, size in record["files"].values())
        committed.append(len(list(done.glob("*.json"))))
        assert committed[-1] >= committed[-2]
        amid += committed[-1] < cases
        # On a busy machine a process may get to its end before it is killed.
        if committed[-1] == cases:
            shutil.rmtree(done)
            committed.append(0)
    check_resumed(folder, root, reference)


# Makes a process kill itself just before its n-th renaming of a finished file.
DIE = """
import os, signal
os_replace, left = os.replace, [{count}]
def replace(*paths):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    os_replace(*paths)
os.replace = replace
"""


@pytest.mark.parametrize("count", range(1, 5))
def test_killed_between_the_files_of_a_case(folder, root, count):
    command = [sys.executable, "-c", DIE.format(count=count) + RUN, str(folder), str(root)]
    assert subprocess.run(command, env=environment(), check=False).returncode == -signal.SIGKILL
    done = store_folder(root, read_dataset(folder), MR, LABELS)
    for record in (json.loads(path.read_text()) for path in done.glob("*.json")):
        assert all((done / name).stat().st_size == size for name, size in record["files"].values())
    assert list(done.glob(".*.part"))
    check_resumed(folder, root, prepare_dataset(read_dataset(folder), MR, LABELS, root.parent / "reference"))


def test_leftovers_of_the_killed_are_removed(folder, root):
    dataset = read_dataset(folder)
    reference = contents(prepare_dataset(dataset, MR, LABELS, root).folder)
    done = store_folder(root, dataset, MR, LABELS)
    (done / ".case_000.json.0123abcd.part").write_bytes(b"half")
    (done / "case_000-00000000.image.b2nd").write_bytes(b"no record speaks of it")
    prepare_dataset(dataset, MR, LABELS, root)
    assert contents(done) == reference


def test_files_of_another_running_process_are_left(folder, root):
    fcntl = pytest.importorskip("fcntl")
    dataset = read_dataset(folder)
    done = prepare_dataset(dataset, MR, LABELS, root).folder
    (done / ".case_009.json.0123abcd.part").write_bytes(b"half")
    with (done / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as another process does while it prepares
        prepare_dataset(dataset, MR, LABELS, root)
        assert list(done.glob("*.part"))
    prepare_dataset(dataset, MR, LABELS, root)
    assert not list(done.glob("*.part"))


def test_processes_side_by_side(many, root):
    folder, reference = many
    processes = [begin(folder, root) for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [("", 0)] * 3
    done = store_folder(root, read_dataset(folder), MR, LABELS)
    assert contents(done) == contents(reference.folder)


def test_one_killed_beside_another(many, root):
    folder, reference = many
    survivor, victim = begin(folder, root), begin(folder, root)
    victim.stdout.readline()
    time.sleep(0.1)
    victim.kill()
    victim.communicate()
    assert (survivor.communicate()[1], survivor.returncode) == ("", 0)
    check_resumed(folder, root, reference)


def check_refused(process, root):
    """Check the sentence about a store that cannot be written, and that nothing partial was left."""
    text = process.communicate()[1].strip()
    assert process.returncode == 1
    assert "\n" not in text and "the prepared scans cannot be written" in text and str(root) in text
    (done,) = root.iterdir()
    assert partial(done) == [".lock"]
    return text


def test_files_that_may_not_grow(many, root):
    folder, reference = many
    images = sorted(size for _, size in files_of(reference.folder, "image"))
    text = check_refused(begin(folder, root, images[len(images) // 2]), root)
    assert "File too large" in text
    check_resumed(folder, root, reference)


def files_of(folder, role):
    return [json.loads(path.read_text())["files"][role] for path in folder.glob("*.json")]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 512 KiB; needs root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and os.name == "posix" and os.geteuid() == 0
    if (
        not mounted
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], check=False).returncode
    ):
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk(many, small_disk):
    folder, reference = many
    root = small_disk / "prepared"
    text = check_refused(begin(folder, root), root)
    assert "No space left on device" in text
    kept = next(root.iterdir())
    assert list(kept.glob("*.json"))
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    check_resumed(folder, root, reference)


def test_a_root_that_cannot_be_a_folder(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        prepare_dataset(read_dataset(folder), MR, LABELS, tmp_path / "file")
