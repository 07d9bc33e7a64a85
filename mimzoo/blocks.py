"""The `mimzoo:` block of a card, and the figures that the Hub reads from it. Strict data without torch."""

import re
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from mimzoo.recipes import Block, Component, Finetuning, GraphPrecision, Input, Labels, Pretraining, Size
from mimzoo.sides import check_sides
from mimzoo.tasks import Regions, Target, Task, make_task

# What a card may name by its content, and the file beside the card that has it.
ARTEFACTS = {
    "weights": "model.safetensors",
    "pretraining_weights": "pretraining.safetensors",
    "onnx": "model.onnx",
}
# Nothing that is joined to a folder or an address can leave it.
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Repo = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w-]*(\.[\w-]+)*/[A-Za-z0-9][\w-]*(\.[\w-]+)*$")]
Tag = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w-]*(\.[\w-]+)*$")]
FileName = Annotated[str, Field(pattern=r"^[^/\\\x00]+$")]
Text = Annotated[str, Field(min_length=1)]
# The Dice with the masks of its model that a graph must have on every volume; in float16 near ties fall either way.
LEAST_DICE: dict[GraphPrecision, float] = {"float32": 0.999, "float16": 0.995, "int8": 0.99}
PIPELINES = {
    "encoder": "image-feature-extraction",
    "segmenter": "image-segmentation",
    "classifier": "image-classification",
    "regressor": "other",
}


class Artefact(Block):
    """A file of a model by its content; `repo` and `tag` say where on the Hub it is published."""

    sha256: Sha256
    bytes: Annotated[int, Field(ge=1)]
    repo: Repo | None = None
    tag: Tag | None = None


class Parity(Block):
    """How an exported graph agrees with the float64 original on one volume.

    `differing` counts the voxels, or the windows of a model that tells of whole scans, that are answered otherwise
    although the original leaves a clear margin; `lowest_dice` is None where no masks are drawn.
    """

    volume: str
    largest_difference: float
    lowest_dice: float | None = None
    differing: int

    def holds(self, precision: GraphPrecision = "float32") -> bool:
        """Return whether every mask agrees, and nothing with a clear margin is answered otherwise.

        Of a graph in int8 the masks decide alone, where there are any.
        """
        if self.lowest_dice is None:
            return self.differing == 0
        return self.lowest_dice >= LEAST_DICE[precision] and (self.differing == 0 or precision == "int8")

    def __str__(self) -> str:
        said = f"{self.volume}: outputs differ by at most {self.largest_difference:.1e}"
        if self.lowest_dice is None:
            return f"{said}, {self.differing} clear windows differ"
        return f"{said}, lowest Dice {self.lowest_dice:.5f}, {self.differing} clear voxels differ"


class Exported(Artefact):
    """An exported graph: what it computes in, its window where that is not the card's crop, and its parity."""

    precision: GraphPrecision = "float32"
    roi: Size | None = None
    parity: tuple[Parity, ...] = ()


class Licence(Block):
    """The licence of the code that made a model, and of the data that its weights were trained on."""

    code: Text
    data: Text


class Metric(Block):
    """A measured number with the protocol that produced it."""

    name: str
    value: float
    data: str
    protocol: str


class Origin(Block):
    """Where imported weights come from: the file by its content, its format, its licence, what to cite.

    `args` are the importer's options, `notes` what it decided without one; without `republish` the licence does not
    let others pass the weights on.
    """

    format: str
    file: FileName
    sha256: Sha256
    bytes: Annotated[int, Field(ge=1)]
    args: dict[str, JsonValue] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    url: str | None = None
    licence: Text
    republish: bool
    citation: Text


class CardBlock(Block):
    """The `mimzoo:` block of a card's front matter."""

    format: Literal[1]
    encoder: Component
    input: Input
    pretraining: Pretraining | None = None
    finetuning: Finetuning | None = None
    labels: Labels | None = None
    regions: Regions | None = None
    target: Target | None = None
    weights: Artefact | None = None
    pretraining_weights: Artefact | None = None
    onnx: Exported | None = None
    licence: Licence
    origin: Origin | None = None
    command: str | None = None
    overrides: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()

    @model_validator(mode="after")
    def _task_fits(self) -> "CardBlock":
        if self.finetuning is not None or self.labels or self.regions or self.target:
            task = make_task(self.labels, self.regions, self.target)
            if self.finetuning is not None:
                check_sides(task, self.finetuning.augmentation)
        return self

    @property
    def task(self) -> Task:
        """Return what the model answers; ValueError for an encoder's card, which describes no task."""
        return make_task(self.labels, self.regions, self.target)

    @property
    def kind(self) -> str:
        """Return "encoder", "segmenter", "classifier" or "regressor"."""
        if self.finetuning is None:
            return "encoder"
        return {"classes": "classifier", "value": "regressor"}.get(self.task.kind, "segmenter")

    def artefacts(self) -> dict[str, Artefact]:
        """Return the files that the block names by their content: file name -> artefact."""
        found = {name: getattr(self, key) for key, name in ARTEFACTS.items()}
        return {name: artefact for name, artefact in found.items() if artefact is not None}


def model_index(name: str, block: CardBlock) -> list[dict[str, Any]]:
    """Return the `model-index` of a model's metrics, from which the Hub shows them; empty where there are none.

    Its form is that of the Hub's model cards (huggingface_hub, `model_index_to_eval_results`).
    """
    if not block.metrics:
        return []
    by_data = groupby(sorted(block.metrics, key=lambda metric: metric.data), key=lambda metric: metric.data)
    return [{"name": name, "results": [_result(block.kind, data, list(metrics)) for data, metrics in by_data]}]


def _result(kind: str, data: str, metrics: list[Metric]) -> dict[str, Any]:
    return {
        "task": {"type": PIPELINES[kind]},
        "dataset": {"name": data, "type": slug_of(data)},
        "metrics": [
            {
                "type": slug_of(metric.name),
                "value": metric.value,
                "name": metric.name,
                "args": {"protocol": metric.protocol},
            }
            for metric in metrics
        ],
    }


def slug_of(text: str) -> str:
    """Return a text as lower-case words joined by hyphens: "Mean Dice (mm)" -> "mean-dice-mm"."""
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))
