"""What a plugin says of its components, and the hooks through which it says it."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pluggy
from pydantic import BaseModel, ConfigDict, ValidationError

from mimzoo.errors import PluginError, ShapeError, suggest

hookspec = pluggy.HookspecMarker("mimzoo")
hookimpl = pluggy.HookimplMarker("mimzoo")


class Args(BaseModel):
    """Base of a component's arguments: frozen, typed, unknown names refused, no torch."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A component by name: where its builder lies, which arguments it takes, and where the method comes from."""

    name: str
    build: str
    args: type[Args] = Args
    defaults: Mapping[str, Any] = field(default_factory=dict)
    summary: str
    source: str

    def check(self, given: Mapping[str, Any]) -> Args:
        """Return validated arguments: the defaults of this spec overlaid with `given`.

        Raises ShapeError that names the argument at fault, and the nearest known one.
        """
        try:
            return self.args.model_validate({**self.defaults, **given})
        except ValidationError as error:
            raise ShapeError(f"{self.name}: {_explain(error, self.args)}") from None

    def load(self) -> Any:
        """Return the builder that `build` ("module:attribute") names.

        Raises PluginError when the module or the attribute is not there.
        """
        module, _, attribute = self.build.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise PluginError(f"{self.name}: cannot load {self.build!r} ({error})") from error


def _explain(error: ValidationError, args: type[Args]) -> str:
    # A misspelt argument shows up twice, as unknown and as missing: the first says more.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown argument {key!r}; {suggest(key, args.model_fields)}"
    return f"argument {key!r}: {first['msg'].lower()}, got {first['input']!r}" if key else first["msg"]


@dataclass(frozen=True, kw_only=True)
class EncoderSpec(Spec):
    """An encoder; `modes` says how it hides units: `drop` (never computed), `replace` (by a learned token)."""

    modes: tuple[str, ...] = ("drop", "replace")


@dataclass(frozen=True, kw_only=True)
class MaskingSpec(Spec):
    """A masking strategy."""


@dataclass(frozen=True, kw_only=True)
class DecoderSpec(Spec):
    """A reconstruction decoder; `modes` says which kinds of tokens it takes."""

    modes: tuple[str, ...] = ("drop", "replace")


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec(Spec):
    """A pretraining objective; `needs` says which parts it is built over besides an encoder."""

    needs: tuple[str, ...] = ("masking", "decoder")


@dataclass(frozen=True, kw_only=True)
class HeadSpec(Spec):
    """A task head on an encoder's feature maps; `task` says what it makes of them: a logit per voxel, or per scan."""

    task: Literal["segmentation", "classification"] = "segmentation"


@dataclass(frozen=True, kw_only=True)
class ImporterSpec(Spec):
    """A reader of another project's checkpoint format: `source` is what to cite.

    `licence` is that of published weights in this format and `data_licence` that of what they were trained on,
    "unknown" where it is not stated; without `republish` the licence does not let others pass them on.
    """

    licence: str = "unknown"
    data_licence: str = "unknown"
    republish: bool = True
    url: str | None = None


@hookspec
def mimzoo_encoders() -> list[EncoderSpec]:  # type: ignore[empty-body]
    """Return the encoders that this plugin offers."""


@hookspec
def mimzoo_maskings() -> list[MaskingSpec]:  # type: ignore[empty-body]
    """Return the masking strategies that this plugin offers."""


@hookspec
def mimzoo_decoders() -> list[DecoderSpec]:  # type: ignore[empty-body]
    """Return the reconstruction decoders that this plugin offers."""


@hookspec
def mimzoo_objectives() -> list[ObjectiveSpec]:  # type: ignore[empty-body]
    """Return the pretraining objectives that this plugin offers."""


@hookspec
def mimzoo_heads() -> list[HeadSpec]:  # type: ignore[empty-body]
    """Return the task heads that this plugin offers."""


@hookspec
def mimzoo_importers() -> list[ImporterSpec]:  # type: ignore[empty-body]
    """Return the checkpoint importers that this plugin offers."""


@hookspec
def mimzoo_cards() -> list[str]:  # type: ignore[empty-body]
    """Return the folders of the model cards that this plugin offers, each with a README.md."""
