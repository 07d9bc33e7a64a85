"""What an exported ONNX file says of itself, and how it is kept from being changed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from mimzoo.errors import ExportError
from mimzoo.recipes import Block, FlipAxes, GraphPrecision, Input, Labels, SidedLabels, Size
from mimzoo.sides import mirrored_outputs
from mimzoo.tasks import Regions, Target, Task, make_task

KEY = "mimzoo"
REMEDY = "; make the file anew with `mimzoo export`"


class Metadata(Block):
    """What an ONNX file says of itself: its card, input and task, window (voxels), overlap and precision."""

    format: Literal[1] = 1
    card: str
    card_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    input: Input
    labels: Labels | None = None
    regions: Regions | None = None
    target: Target | None = None
    flip_axes: FlipAxes = ()
    sided_labels: SidedLabels = ()
    roi: Size
    overlap: Annotated[float, Field(ge=0, lt=1)]
    precision: GraphPrecision = "float32"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        mirrored_outputs(make_task(self.labels, self.regions, self.target), self.sided_labels)
        if self.roi != self.input.crop:
            raise ValueError(f"roi {list(self.roi)} is not the crop of the input, {list(self.input.crop)}")
        return self

    @property
    def task(self) -> Task:
        """Return what the model answers."""
        return make_task(self.labels, self.regions, self.target)

    def to_props(self) -> dict[str, str]:
        """Return the metadata_props of the ONNX file: one key with sorted JSON and a checksum of it."""
        content = self.model_dump(mode="json")
        return {KEY: json.dumps({**content, "sha256": digest(content)}, sort_keys=True)}

    @classmethod
    def from_props(cls, props: Mapping[str, str], name: str = "the model") -> Self:
        """Return the metadata that `to_props` wrote.

        Raises ExportError, with `name`, when there is none, when it was changed, or when it does not follow the schema.
        """
        if KEY not in props:
            raise ExportError(f"{name}: the ONNX file was not made by mimzoo (it lacks the metadata {KEY!r}){REMEDY}")
        try:
            content = json.loads(props[KEY])
            checksum = content.pop("sha256", None)
            found = cls.model_validate_json(json.dumps(content))
        except ValidationError as error:
            raise ExportError(f"{name}: the metadata is not valid ({_first(error)}){REMEDY}") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise ExportError(f"{name}: the metadata is damaged ({error}){REMEDY}") from error
        if checksum != digest(content):
            raise ExportError(f"{name}: the metadata was changed after the export (its checksum differs){REMEDY}")
        return found


def digest(content: Mapping[str, Any]) -> str:
    """Return the checksum of the metadata's content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    said = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, first['loc']))}: {said[:1].lower()}{said[1:]}".removeprefix(": ")
