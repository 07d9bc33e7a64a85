"""The blocks of a model card: input, recipes, labels. Strict data without torch, shared by training and deployment."""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = tuple[Positive, Positive, Positive]
Spacing = tuple[Rate, Rate, Rate]
FlipAxes = tuple[Annotated[int, Field(ge=0, le=2)], ...]
SidedLabels = tuple[tuple[Positive, Positive], ...]
# What an exported graph computes in.
GraphPrecision = Literal["float32", "float16", "int8"]


class Block(BaseModel):
    """A frozen mapping that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class Component(Block):
    """A registered component by name, with the arguments that differ from its defaults."""

    name: str
    args: dict[str, JsonValue] = {}


class WindowHU(Block):
    """Intensities clipped to a Hounsfield window and mapped to 0..1."""

    mode: Literal["window_hu"]
    window_hu: tuple[float, float]

    @model_validator(mode="after")
    def _rises(self) -> "WindowHU":
        _check_rising("window_hu", self.window_hu)
        return self


class ZScore(Block):
    """Intensities to zero mean and unit deviation over the chosen voxels; with `nonzero`, zeros stay zero."""

    mode: Literal["zscore"]
    voxels: Literal["all", "nonzero"] = "all"


class Percentile(Block):
    """Intensities clipped between two percentiles of the scan and mapped to 0..1."""

    mode: Literal["percentile"]
    percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = (0.5, 99.5)

    @model_validator(mode="after")
    def _rises(self) -> "Percentile":
        _check_rising("percentiles", self.percentiles)
        return self


def _check_rising(key: str, pair: tuple[float, float]) -> None:
    if pair[0] >= pair[1]:
        raise ValueError(f"{key} must rise, got {list(pair)}")


Intensity = Annotated[WindowHU | ZScore | Percentile, Field(discriminator="mode")]


class Input(Block):
    """What a network sees of a scan: channel names, spacing (mm), orientation, intensity mode, crop (voxels)."""

    channels: Annotated[tuple[str, ...], Field(min_length=1)]
    spacing_mm: Spacing
    orientation: Literal["RAS"] = "RAS"
    intensity: Intensity
    crop: Size

    def key(self) -> str:
        """Return the hash of all that decides the prepared voxels (the crop does not)."""
        text = json.dumps(self.model_dump(mode="json", exclude={"crop"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class Optimiser(Block):
    """AdamW with linear warm-up, cosine decay to `final_lr`, gradient clipping and layer-wise decay."""

    lr: Rate
    final_lr: Annotated[float, Field(ge=0)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    betas: tuple[Share, Share] = (0.9, 0.95)
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    clip_norm: Rate = 1.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Augmentation(Block):
    """Random changes of a crop; every amount 0 and no axis switches its change off.

    `sided_labels` are pairs of labels, the right one of an organ and its left one, which change places wherever a crop
    is flipped along X.
    """

    flip_axes: FlipAxes = ()
    sided_labels: SidedLabels = ()
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    noise: Annotated[float, Field(ge=0)] = 0.0
    blur_mm: Annotated[float, Field(ge=0)] = 0.0
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.0
    intensity_scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    intensity_shift: Annotated[float, Field(ge=0)] = 0.0
    probability: Share = 0.5

    @model_validator(mode="after")
    def _sides_are_known(self) -> "Augmentation":
        values = [value for pair in self.sided_labels for value in pair]
        if len(set(values)) < len(values):
            raise ValueError(
                f"sided_labels must name each label once, got {[list(pair) for pair in self.sided_labels]}"
            )
        return self

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        """Leave sided labels out where there are none: cards made before there were any keep their hash."""
        written: dict[str, JsonValue] = write(self)
        if not self.sided_labels:
            written.pop("sided_labels", None)
        return written


class Schedule(Block):
    """How long and how: optimiser steps, crops per step over all devices, seed, validation interval (steps).

    With `checkpointing`, activations of the model's blocks are not kept but computed again, for less memory.
    """

    steps: Positive
    batch: Positive
    accumulate: Positive = 1
    validate_every: Positive
    optimiser: Optimiser
    augmentation: Augmentation = Augmentation()
    seed: Annotated[int, Field(ge=0)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpointing: bool = False

    @model_validator(mode="after")
    def _batch_divides(self) -> "Schedule":
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} must be a multiple of accumulate {self.accumulate}")
        return self


class Pretraining(Schedule):
    """A pretraining recipe; objectives that hide nothing take no masking, those that reconstruct nothing no decoder.

    `start` names the card whose weights it goes on from (none: from scratch).
    """

    objective: Component
    start: str | None = None
    masking: Component | None = None
    decoder: Component | None = None
    data: str


MetricName = Literal[
    "dice",
    "hd95_mm",
    "surface_dice",
    "volume_difference",
    "lesion_dice",
    "lesion_hd95_mm",
    "lesion_f1",
    "lesion_count_difference",
]


class Scoring(Block):
    """Which scores of masks are computed, and what they need to know.

    `surface_tolerance_mm` belongs to the surface Dice. Lesions that touch after `lesion_dilation_voxels` count as one;
    lesions of the truth with fewer than `lesion_minimum_voxels` are not counted.
    """

    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)] = (
        "dice",
        "hd95_mm",
        "surface_dice",
        "volume_difference",
    )
    surface_tolerance_mm: Annotated[float, Field(ge=0)] = 1.0
    lesion_dilation_voxels: Annotated[int, Field(ge=0)] = 3
    lesion_minimum_voxels: Annotated[int, Field(ge=0)] = 0


class Split(Block):
    """Which cases train and which validate, by id; the others are left out."""

    training: Annotated[tuple[str, ...], Field(min_length=1)]
    validation: Annotated[tuple[str, ...], Field(min_length=1)]


class Fold(Block):
    """Part `fold` (from 0) of `folds` validates, the others train; no subject is in two parts."""

    folds: Annotated[int, Field(ge=2)]
    fold: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _is_one_of_them(self) -> "Fold":
        if self.fold >= self.folds:
            raise ValueError(f"fold must be 0 to {self.folds - 1} of {self.folds} folds, got {self.fold}")
        return self


class Finetuning(Schedule):
    """A recipe for a task with labels, or with a target that is told of whole scans.

    `start` names the card whose encoder weights it begins from (none: from scratch); `labelled` takes only that many
    of the training cases, or that share of them if below 1; `split` and `fold` take the place of the data set's own
    split; `foreground` is the share of crops centred on a labelled voxel, `overlap` that of sliding windows.
    """

    head: Component
    start: str | None = None
    labelled: Positive | Annotated[float, Field(gt=0, lt=1)] | None = None
    split: Split | None = None
    fold: Fold | None = None
    foreground: Share = 0.67
    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    scoring: Scoring = Scoring()
    data: str

    @model_validator(mode="after")
    def _splits_once(self) -> "Finetuning":
        if self.split is not None and self.fold is not None:
            raise ValueError("finetuning has both a split and a fold; leave one of them out")
        return self

    @model_validator(mode="after")
    def _scores_dice(self) -> "Finetuning":
        if "dice" not in self.scoring.metrics:
            raise ValueError("scoring.metrics must have dice, by which runs are selected and compared")
        return self


Labels = dict[Annotated[int, Field(ge=1, le=254)], str]
