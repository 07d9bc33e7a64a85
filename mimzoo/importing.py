"""Checkpoints of other projects into the local store: `mimzoo import FORMAT FILE --name NAME`."""

import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from mimzoo.blocks import PIPELINES, Artefact, CardBlock, Licence, Origin
from mimzoo.cards import NAME, Card, card_folders, override, parse_card, store_folder, update_card, write_card
from mimzoo.checkpoints import Checkpoint, Imported, read_checkpoint
from mimzoo.errors import CardError, MimzooError
from mimzoo.models import load_card
from mimzoo.registry import find
from mimzoo.specs import Args, ImporterSpec
from mimzoo.weights import LoadReport, save_weights

# A starting point for fine-tuning, not how the weights were made: nobody's checkpoint says that.
RECIPE = {
    "steps": 10_000,
    "batch": 2,
    "validate_every": 500,
    "optimiser": {"lr": 1e-4, "weight_decay": 1e-5, "betas": [0.9, 0.999], "warmup_steps": 500},
}


@dataclass(frozen=True)
class Import:
    """The card of what was imported, what became of its tensors, and why some of the file's were left out."""

    card: Card
    report: LoadReport
    left_out: Mapping[str, str]

    def __str__(self) -> str:
        """Return what was imported and left out, in a line for each reason."""
        origin = self.card.block.origin
        lines = [f"{self.card.name}: {self.report}", *(f"decided: {note}" for note in (origin.notes if origin else ()))]
        by_reason = sorted(self.left_out.items(), key=lambda pair: pair[1])
        for reason, pairs in groupby(by_reason, key=lambda pair: pair[1]):
            names = [name for name, _ in pairs]
            lines.append(f"left out, {reason}: {len(names)} tensors such as {names[0]}")
        return "\n".join(lines)


def import_checkpoint(
    format: str,
    file: Path,
    name: str,
    options: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> Import:
    """Return what was made of a checkpoint of a `format`, now in the local store, where it loads by its `name`.

    `options` are the importer's own arguments, `assignments` change keys of the card that it writes. Every tensor of
    the result is loaded once into the module it is meant for before anything is kept.
    Raises CardError for a name that is taken or none; UnknownNameError, ShapeError or WeightsError for a format, an
    option or a file that cannot be used; then nothing is written.
    """
    _check_name(name)
    spec: ImporterSpec = find("importer", format)
    args = spec.check(options or {})
    checkpoint = read_checkpoint(file)
    try:
        imported: Imported = spec.load()(checkpoint.content, args)
    except MimzooError as error:
        raise type(error)(f"{file} cannot be imported as {format}: {error}") from None
    card = override(make_card(spec, args, checkpoint, imported, name), list(assignments))
    with _new_folder(store_folder(name)) as folder:
        kept = _keep(card, imported, folder)
        report = _try(kept, format, file)
    return Import(replace(kept, folder=store_folder(name)), report, imported.left_out)


def _try(card: Card, format: str, file: Path) -> LoadReport:
    """Return the report of loading what was kept, all of it."""
    try:
        report: LoadReport = load_card(card).report
    except MimzooError as error:
        raise type(error)(f"{file} cannot be imported as {format}: {error}") from None
    return report


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise CardError(f"--name {name!r} is no name; write small letters, digits and hyphens, such as my-swin")
    folders = card_folders()
    if name in folders:
        raise CardError(f"a model is called {name!r} already ({folders[name]}); choose another --name, or remove it")


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` when the block ends, and vanishes when it fails."""
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _keep(card: Card, imported: Imported, folder: Path) -> Card:
    about = {"card": card.name, "card_sha256": card.sha256()}
    digest, size = save_weights(folder / "model.safetensors", imported.tensors, about)
    kept = update_card(card, weights=Artefact(sha256=digest, bytes=size))
    write_card(kept, folder)
    return replace(kept, folder=folder)


def make_card(spec: ImporterSpec, args: Args, checkpoint: Checkpoint, imported: Imported, name: str) -> Card:
    """Return the card of what was imported, with its origin, licence and what to cite."""
    origin = Origin(
        format=spec.name,
        file=checkpoint.path.name,
        sha256=checkpoint.sha256,
        bytes=checkpoint.bytes,
        args=args.model_dump(mode="json", exclude_none=True),
        notes=imported.notes,
        url=spec.url,
        licence=spec.licence,
        republish=spec.republish,
        citation=spec.source,
    )
    block = CardBlock(
        format=1,
        encoder=imported.encoder,
        input=imported.input,
        licence=Licence(code="Apache-2.0", data=spec.data_licence),
        origin=origin,
    ).model_dump(mode="json")
    if imported.head is not None:
        data = f"what {origin.file} was trained on"
        block["finetuning"] = {**RECIPE, "head": imported.head.model_dump(mode="json"), "data": data}
        block["labels"] = imported.labels
    kind = "encoder" if imported.head is None else "segmenter"
    front = {
        "license": spec.licence.lower() if spec.licence in {"Apache-2.0", "CC-BY-4.0"} else "other",
        "library_name": "mimzoo",
        "pipeline_tag": PIPELINES[kind],
        "tags": ["medical-imaging", "3d"],
        "mimzoo": block,
    }
    return parse_card(name, front, _text(name, kind, origin), None)


def _text(name: str, kind: str, origin: Origin) -> str:
    choices = "; ".join((*(f"{key} {value}" for key, value in origin.args.items()), *origin.notes))
    where = f", from {origin.url}" if origin.url else ""
    return f"""# {name}

An imported {kind}: the weights of `{origin.file}` (format `{origin.format}`{where}), under mimzoo's names.

**Origin.** sha256 {origin.sha256}, {origin.bytes} bytes.
Licence of weights published in this format: {origin.licence}; for others set `origin.licence`. Cite
{origin.citation}.

**Choices.** {choices or "None."}

**Input.** A checkpoint does not say how its scans were prepared. What the `input` block says is what the format's
published training did, or a guess where there is none; compare it with how these weights were trained.

**Use.** Not a medical device. Nothing was measured here; `mimzoo evaluate {name} --data DIR` measures a segmenter.
"""
