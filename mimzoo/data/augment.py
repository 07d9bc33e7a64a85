"""Random changes of a training crop from a recipe: the same item and seed give the same crop."""

from collections.abc import Callable, Iterator
from typing import Any

from mimzoo.recipes import Augmentation
from mimzoo.sides import X

Item = dict[str, Any]
Augment = Callable[[Item, int], Item]
VOLUME, BOTH = ("volume",), ("volume", "labels")


def build_augmentation(recipe: Augmentation, spacing_mm: tuple[float, float, float]) -> Augment:
    """Return a function of a CropDataset item and a seed that returns the item changed at random.

    Each change happens with the recipe's probability, each flip axis by itself: rotation up to `rotate_deg` about
    every axis with scaling, blur up to `blur_mm`, flips, gamma between 1 / (1 + gamma) and 1 + gamma on the crop's own
    range (so that negative values are no matter), values times 1 +- intensity_scale, values +- intensity_shift,
    Gaussian noise of a deviation up to `noise`. Labels turn and flip along, always with whole values; where left is
    flipped to right, sided labels change places, so that each is still on its own side of the body.
    """
    return _Augment(recipe, spacing_mm)


class _Augment:
    """A callable rather than a closure, so that loaders can hand it to processes they spawn."""

    def __init__(self, recipe: Augmentation, spacing_mm: tuple[float, float, float]) -> None:
        from monai.transforms import Compose  # takes 1.5 s to import, which only training should wait for

        self.transforms = Compose(list(_transforms(recipe, spacing_mm)))

    def __call__(self, item: Item, seed: int) -> Item:
        changed = dict(item)
        if "labels" in item:
            # (X, Y, Z) -> (1, X, Y, Z): MONAI expects channels
            changed["labels"] = item["labels"][None]
        changed = self.transforms.set_random_state(seed)(changed)
        # MONAI's tensors carry their history, which collating and training would drag along
        plain = {key: changed[key].as_subclass(type(item[key])) for key in BOTH if key in item}
        if "labels" in plain:
            plain["labels"] = plain["labels"][0]
        return {**item, **plain}


def _transforms(recipe: Augmentation, spacing_mm: tuple[float, float, float]) -> Iterator[Any]:
    from monai import transforms as monai

    from mimzoo.data.transforms import RandBlurd, RandSidesd, RandTurnd

    often = recipe.probability
    if recipe.rotate_deg or recipe.scale:
        yield RandTurnd(BOTH, often, recipe.rotate_deg, recipe.scale, spacing_mm)
    if recipe.blur_mm:
        yield RandBlurd(VOLUME, often, recipe.blur_mm, spacing_mm)
    for axis in recipe.flip_axes:
        if axis == X and recipe.sided_labels:
            yield RandSidesd(BOTH, often, recipe.sided_labels)
        else:
            yield monai.RandFlipd(BOTH, often, axis, allow_missing_keys=True)
    if recipe.gamma:
        yield monai.RandAdjustContrastd(VOLUME, often, (1 / (1 + recipe.gamma), 1 + recipe.gamma))
    if recipe.intensity_scale:
        yield monai.RandScaleIntensityd(VOLUME, recipe.intensity_scale, often)
    if recipe.intensity_shift:
        yield monai.RandShiftIntensityd(VOLUME, recipe.intensity_shift, prob=often)
    if recipe.noise:
        yield monai.RandGaussianNoised(VOLUME, often, std=recipe.noise)
