"""Random crops: pure in (seed, item), fair to cases and classes, true to the scan, padded where it ends."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import MR, make_dataset, make_pair, save
from torch.utils.data import DataLoader

from mimzoo.data.augment import build_augmentation
from mimzoo.data.crops import CropDataset
from mimzoo.data.datasets import Case, Dataset, read_dataset
from mimzoo.data.store import prepare_dataset
from mimzoo.errors import DataError
from mimzoo.recipes import Augmentation
from mimzoo.volume import Grid

LABELS = {1: "Left", 2: "Right"}


@dataclass
class FakeCase:
    """A stored case in memory that remembers which crops were read."""

    id: str
    voxels: np.ndarray
    labels: np.ndarray | None
    reads: list = field(default_factory=list)

    @property
    def grid(self):
        return Grid(self.voxels.shape[1:], np.eye(4))

    @property
    def minimum(self):
        return tuple(self.voxels.min(axis=(1, 2, 3)).tolist())

    @property
    def foreground(self):
        return {int(v): np.argwhere(self.labels == v).astype(np.uint16) for v in np.unique(self.labels) if v}

    def read_crop(self, start, size):
        self.reads.append((tuple(start), tuple(size)))
        part = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        return self.voxels[(slice(None), *part)].copy(), None if self.labels is None else self.labels[part]


def fake(name, shape, marked=((1, (0, 0, 0)),), channels=1):
    """Return a case of distinct values, with single labelled voxels."""
    voxels = np.arange(channels * np.prod(shape), dtype=np.float32).reshape(channels, *shape) - 7
    labels = np.zeros(shape, np.uint8)
    for value, place in marked:
        labels[place] = value
    return FakeCase(name, voxels, labels)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops")
    return prepare_dataset(read_dataset(make_dataset(folder / "boxes", training=5)), MR, LABELS, folder / "prepared")


def same(one, two):
    return one.keys() == two.keys() and all(
        torch.equal(one[key], two[key]) if key != "case" else one[key] == two[key] for key in one
    )


# --- pure in (seed, item) ---------------------------------------------------------------------------------------------


def test_an_item_depends_on_seed_and_index_alone(store):
    cases = store.cases("training")
    data, again = (CropDataset(cases, (8, 12, 10), 40, 3, 0.5) for _ in range(2))
    forwards = [data[n] for n in range(40)]
    assert all(same(again[n], forwards[n]) for n in reversed(range(40)))
    longer = CropDataset(cases, (8, 12, 10), 4000, 3, 0.5)
    assert all(same(longer[n], forwards[n]) for n in range(40))
    other = CropDataset(cases, (8, 12, 10), 40, 4, 0.5)
    assert not any(same(other[n], forwards[n]) for n in range(40))
    assert len({item["volume"].numpy().tobytes() for item in forwards}) == 40


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_items_do_not_depend_on_the_loader(store, method):
    augment = build_augmentation(Augmentation(flip_axes=(0,), rotate_deg=10, noise=0.1), (1, 1, 1))
    data = CropDataset(store.cases("training"), (8, 12, 10), 12, 3, 0.5, augment)
    loader = DataLoader(data, batch_size=3, sampler=range(3, 12), num_workers=2, multiprocessing_context=method)
    batches = list(loader)
    for key in ("volume", "labels"):
        assert torch.equal(torch.cat([b[key] for b in batches]), torch.stack([data[n][key] for n in range(3, 12)]))
    assert [case for b in batches for case in b["case"]] == [data[n]["case"] for n in range(3, 12)]


def test_global_random_state_is_neither_used_nor_moved(store):
    data = CropDataset(store.cases("training"), (8, 12, 10), 9, 3, 0.5)
    torch.manual_seed(1)
    np.random.seed(1)
    first = data[5]
    expected = torch.get_rng_state(), np.random.get_state()[1].tolist()
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(expected[0], torch.get_rng_state())
    assert expected[1] == np.random.get_state()[1].tolist()
    torch.manual_seed(2)
    assert same(data[5], first)


# --- fair -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(cases=st.integers(1, 9), seed=st.integers(0, 2**40))
def test_each_pass_visits_each_case_once(cases, seed):
    data = CropDataset([fake(str(n), (3, 3, 3)) for n in range(cases)], (2, 2, 2), 6 * cases, seed, 0.3)
    visited = [data[n]["case"] for n in range(len(data))]
    passes = [visited[n : n + cases] for n in range(0, len(visited), cases)]
    assert all(sorted(names) == sorted(map(str, range(cases))) for names in passes)


def test_passes_differ_in_order():
    data = CropDataset([fake(str(n), (3, 3, 3)) for n in range(8)], (2, 2, 2), 80, 0)
    visited = [data[n]["case"] for n in range(80)]
    assert len({tuple(visited[n : n + 8]) for n in range(0, 80, 8)}) == 10


@pytest.mark.parametrize("share", [0.0, 0.3, 0.67, 1.0])
def test_the_foreground_share(share):
    # The lone labelled voxel lies where 1 crop of 3 * 3 * 3 in 41 ** 3 comes by chance: practically never.
    data = CropDataset([fake("a", (43, 43, 43), [(1, (21, 21, 21))])], (3, 3, 3), 1500, 0, share)
    held = np.mean([bool(data[n]["labels"].any()) for n in range(1500)])
    assert held == pytest.approx(share, abs=3.5 * np.sqrt(share * (1 - share) / 1500) + 1e-3)


def test_classes_present_are_drawn_evenly():
    case = fake("a", (30, 30, 30))
    case.labels[:] = 0
    case.labels[:10, :10] = 1
    case.labels[25, 25, 25] = 2
    data = CropDataset([case], (3, 3, 3), 600, 0, 1.0)
    rare = np.mean([bool((data[n]["labels"] == 2).any()) for n in range(600)])
    assert rare == pytest.approx(0.5, abs=0.08)


def test_uniform_crops_reach_every_place_evenly():
    case = fake("a", (6, 5, 4))
    data = CropDataset([case], (3, 5, 2), 2400, 0)
    for n in range(2400):
        data[n]
    counts = Counter(start for start, _ in case.reads)
    assert set(counts) == {(x, 0, z) for x in range(4) for z in range(3)}
    assert max(abs(n - 200) for n in counts.values()) < 4 * np.sqrt(200)


def test_foreground_crops_vary_around_their_voxel():
    case = fake("a", (60, 60, 60), [(1, (30, 30, 30))])
    data = CropDataset([case], (16, 16, 16), 300, 0, 1.0)
    for n in range(300):
        data[n]
    within = np.array([[30 - a for a in start] for start, _ in case.reads])
    assert (within.min(axis=0) == 4).all() and (within.max(axis=0) == 11).all()


def test_a_case_without_foreground_gives_uniform_crops():
    case = fake("a", (20, 20, 20), [])
    data = CropDataset([case], (4, 4, 4), 50, 0, 1.0)
    assert len({tuple(case.reads[-1][0]) for n in range(50) if data[n]}) > 40


# --- true to the scan, padded where it ends ---------------------------------------------------------------------------

sizes = st.tuples(*[st.integers(1, 9)] * 3)


@settings(deadline=None, max_examples=150)
@given(shape=sizes, crop=sizes, channels=st.integers(1, 2), seed=st.integers(0, 2**31), share=st.sampled_from([0, 1]))
def test_crops_of_any_case_and_size(shape, crop, channels, seed, share):
    place = tuple(np.random.default_rng(seed).integers(0, shape))
    case = fake("a", shape, [(5, place)], channels)
    item = CropDataset([case], crop, 1, seed, share)[0]
    volume, labels = item["volume"], item["labels"]
    assert (volume.dtype, volume.shape) == (torch.float32, (channels, *crop))
    assert (labels.dtype, labels.shape) == (torch.int64, crop)
    assert volume.is_contiguous() and labels.is_contiguous()
    ((start, size),) = case.reads
    assert size == tuple(np.minimum(shape, crop))
    assert all(0 <= a <= max(n - c, 0) for a, n, c in zip(start, shape, crop, strict=True))
    check_padded(volume.numpy(), case.voxels, start, size, case.minimum)
    check_padded(labels.numpy()[None], case.labels[None], start, size, (0,))
    if share:
        assert (labels == 5).sum() == 1


def check_padded(found, whole, start, size, fill):
    """Check that the part of the whole lies in the middle, and the fill of its channel everywhere else."""
    before = [(have - n) // 2 for have, n in zip(found.shape[1:], size, strict=True)]
    middle = tuple(slice(b, b + n) for b, n in zip(before, size, strict=True))
    part = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    expected = np.stack([np.full(found.shape[1:], value, found.dtype) for value in fill])
    expected[(slice(None), *middle)] = whole[(slice(None), *part)]
    np.testing.assert_array_equal(found, expected)


def test_a_small_stored_case_is_padded_with_its_minimum(tmp_path):
    image, labels = make_pair(0, (10, 30, 7))
    case = Case("a", (save(tmp_path / "a.nii", image),), save(tmp_path / "l.nii", labels))
    stored = prepare_dataset(Dataset("a", tmp_path, (case,)), MR, LABELS, tmp_path / "p").cases("training")[0]
    item = CropDataset([stored], (16, 16, 16), 1, 0)[0]
    assert (item["volume"][:, :3] == stored.read()[0].min()).all()
    assert (item["labels"][:3] == 0).all() and (item["labels"][..., 13:] == 0).all()


def test_real_scans(data_root, tmp_path):
    whole = read_dataset(data_root / "hippocampus")
    dataset = Dataset("h", whole.folder, whole.training[:6])
    input = MR.model_copy(update={"crop": (40, 56, 40)})
    cases = prepare_dataset(dataset, input, whole.labels, tmp_path).cases("training")
    data = CropDataset(cases, (40, 56, 40), 12, 0, 0.67)
    for n in range(12):
        item = data[n]
        assert item["volume"].shape == (1, 40, 56, 40)
        # Every crop of this size holds the whole of these small scans, up to a few planes.
        assert set(item["labels"].unique().tolist()) == {0, 1, 2}
        assert torch.isfinite(item["volume"]).all()


# --- labelled or not, and refusals ------------------------------------------------------------------------------------


def test_without_labels_there_are_none(store):
    item = CropDataset(store.cases("unlabelled"), (8, 8, 8), 3, 0)[2]
    assert sorted(item) == ["case", "start", "volume"]
    assert item["case"] == "case_006"


def test_no_cases():
    with pytest.raises(DataError, match="there are no cases to draw crops from"):
        CropDataset([], (8, 8, 8), 3, 0)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_labelled_and_unlabelled_cases_do_not_mix(store, share):
    with pytest.raises(DataError, match="case 'case_006' has no labels"):
        CropDataset([*store.cases("training"), *store.cases("unlabelled")], (8, 8, 8), 3, 0, share)


def test_foreground_needs_labels(store):
    with pytest.raises(DataError, match="case 'case_006' has no labels"):
        CropDataset(store.cases("unlabelled"), (8, 8, 8), 3, 0, 0.1)


def test_length_and_bounds(store):
    data = CropDataset(store.cases("training"), (8, 8, 8), 3, 0)
    assert len(data) == len(list(data)) == 3
    for index in (-1, 3):
        with pytest.raises(IndexError):
            data[index]


def test_the_augmentation_gets_a_seed_of_the_item(store):
    seeds = {}

    def augment(item, seed):
        seeds.setdefault(len(seeds), seed)
        return {**item, "volume": item["volume"] + 1}

    cases = store.cases("training")
    data, plain = CropDataset(cases, (8, 8, 8), 9, 0, 0.5, augment), CropDataset(cases, (8, 8, 8), 9, 0, 0.5)
    assert all(torch.equal(data[n]["volume"], plain[n]["volume"] + 1) for n in range(9))
    first = list(seeds.values())
    assert len(set(first)) == 9
    seeds.clear()
    assert [data[n] for n in range(9)] and list(seeds.values()) == first
