"""Random crops of prepared scans: item i depends on the seed and i alone, so that resuming needs no state."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mimzoo.data.augment import Augment, Item
from mimzoo.data.store import StoredCase
from mimzoo.errors import DataError
from mimzoo.volume import pad_to

# Streams of random numbers under one seed: the order of the cases, what happens to an item, and who stands in for it.
ORDER, ITEM, INSTEAD = 0, 1, 2


class CropDataset(Dataset[Item]):
    """`count` random crops of prepared cases, in passes through all cases, each pass in an order of its own.

    An item has "volume" float32 (C, *crop), "case" (its id), "start" int64 (3,) (its first voxel in the case), and
    "labels" int64 (*crop) where the cases are labelled.
    With the probability `foreground` a crop holds a voxel of a class drawn evenly from those present, at random within
    the crop's middle half; else, and in a case without foreground, it lies anywhere in the case with equal
    probability. A case smaller than the crop is padded around with its least value, and its labels with 0.
    `augment` takes an item and a seed.

    By its index alone an item of a case that is damaged or gone is a DataError. A loader, which asks for whole batches,
    gets another case in its place, chosen by the seed, the index and which cases can be read; its "skipped" is JSON of
    the reasons by case, or empty.
    Raises DataError when there are no cases, or labelled and unlabelled ones together.
    """

    def __init__(
        self,
        cases: Sequence[StoredCase],
        crop: tuple[int, int, int],
        count: int,
        seed: int,
        foreground: float = 0.0,
        augment: Augment | None = None,
    ) -> None:
        if not cases:
            raise DataError("there are no cases to draw crops from; the split is empty")
        unlabelled = [case.id for case in cases if case.labels is None]
        if unlabelled and (foreground > 0 or len(unlabelled) < len(cases)):
            raise DataError(f"case {unlabelled[0]!r} has no labels, but crops with labels are asked for; take it out")
        self.cases, self.crop, self.count, self.seed = tuple(cases), crop, count, seed
        self.foreground, self.augment = foreground, augment

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        return self._draw(self._case(index), index)

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return the items of a batch, cases that can be read in the place of those that cannot.

        Raises DataError when none can be read.
        """
        return [self._spare(index) for index in indices]

    def _spare(self, index: int) -> Item:
        failures: dict[str, str] = {}
        for case in self._candidates(index):
            try:
                return {**self._draw(case, index), "skipped": json.dumps(failures) if failures else ""}
            except DataError as error:
                failures[case.id] = str(error)
        reason = next(iter(failures.values()))
        raise DataError(f"none of the {len(self.cases)} prepared cases can be read; of the first, {reason}")

    def _candidates(self, index: int) -> Iterator[StoredCase]:
        """Yield the case of an item, then all others in an order of the item's own."""
        drawn = self._case(index)
        yield drawn
        for place in np.random.default_rng([self.seed, INSTEAD, index]).permutation(len(self.cases)):
            if self.cases[place] is not drawn:
                yield self.cases[place]

    def _case(self, index: int) -> StoredCase:
        if not 0 <= index < self.count:
            raise IndexError(f"item {index} of {self.count}")
        round_, place = divmod(index, len(self.cases))
        return self.cases[_order(self.seed, round_, len(self.cases))[place]]

    def _draw(self, case: StoredCase, index: int) -> Item:
        rng = np.random.default_rng([self.seed, ITEM, index])
        item = self._read(case, self._start(case, rng))
        return item if self.augment is None else self.augment(item, int(rng.integers(2**31)))

    def _start(self, case: StoredCase, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the crop's first voxel; 0 along axes on which the case is smaller than the crop."""
        room = np.maximum(np.array(case.grid.shape) - self.crop, 0)
        if rng.random() < self.foreground:
            voxel = _foreground_voxel(case.foreground, rng)
            if voxel is not None:
                size = np.array(self.crop)
                # Where in the crop the voxel shall lie; clipping the start to the case keeps it inside the crop.
                within = rng.integers(size // 4, size - size // 4)
                clipped: NDArray[np.int64] = np.clip(voxel - within, 0, room)
                return clipped
        return rng.integers(0, room, endpoint=True)

    def _read(self, case: StoredCase, start: NDArray[np.int64]) -> Item:
        size = np.minimum(case.grid.shape, self.crop)
        voxels, labels = case.read_crop(start.tolist(), size.tolist())
        volume = torch.from_numpy(pad_to(voxels, self.crop, case.minimum)[0])
        item: Item = {"volume": volume, "case": case.id, "start": torch.from_numpy(start)}
        if labels is not None:
            # (X, Y, Z) -> (1, X, Y, Z) -> (X, Y, Z)
            item["labels"] = torch.from_numpy(pad_to(labels[None], self.crop, 0)[0][0].astype(np.int64))
        return item


def _foreground_voxel(sample: Mapping[int, NDArray[np.uint16]], rng: np.random.Generator) -> NDArray[np.int64] | None:
    if not sample:
        return None
    voxels = sample[sorted(sample)[rng.integers(len(sample))]]
    voxel: NDArray[np.int64] = voxels[rng.integers(len(voxels))].astype(np.int64)
    return voxel


@lru_cache(maxsize=4)
def _order(seed: int, round_: int, cases: int) -> list[int]:
    """Return the order of the cases in a pass."""
    order: list[int] = np.random.default_rng([seed, ORDER, round_]).permutation(cases).tolist()
    return order
