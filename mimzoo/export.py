"""A fine-tuned model as one ONNX file with all that deployment needs: `mimzoo export RUN`."""

import copy
import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from mimzoo.blocks import LEAST_DICE, Exported, Parity
from mimzoo.cards import Card, is_folder_reference, update_card, write_card
from mimzoo.data.cases import SPLITS, Case
from mimzoo.data.datasets import read_dataset
from mimzoo.deploy import MODEL_FILE, Metadata, Scan
from mimzoo.errors import CardError, ExportError, UnknownNameError, suggest
from mimzoo.files import replacing
from mimzoo.graphs import Halved, calibration_windows, graph_of, quantise
from mimzoo.hub import find_model
from mimzoo.models import load_card
from mimzoo.parity import compare, phantom_for
from mimzoo.recipes import GraphPrecision, Input, Size

DESCRIPTION = "segmenter.json"
# Of a data set, how many scans int8 is calibrated on and judged on; in float32 and float16 one is enough.
CALIBRATED, JUDGED = 8, 3


@dataclass(frozen=True)
class Form:
    """In which form a model is exported: what its graph computes in, and its window (None: the card's crop)."""

    precision: GraphPrecision = "float32"
    roi: Size | None = None


@dataclass(frozen=True)
class Scans:
    """Real scans beside an export: those on which the graph must agree, and those that int8 is calibrated on."""

    judged: tuple[Scan, ...] = ()
    calibrated: tuple[Scan, ...] = ()


def make_form(precision: str, roi: Size | None) -> Form:
    """Return the form that users ask for; UnknownNameError for a precision that there is none of."""
    known = {name: name for name in LEAST_DICE}
    if precision not in known:
        raise UnknownNameError(f"no graph is exported in the precision {precision!r}; {suggest(precision, known)}")
    return Form(known[precision], roi)


def choose_scans(scan: Scan | None, data: Path | None, precision: GraphPrecision) -> Scans:
    """Return the scans for an export, `scan` and those of a data set: its validation judges, others calibrate.

    Raises DataError for a folder that is no data set.
    """
    if data is None:
        return Scans(() if scan is None else (scan,))
    dataset = read_dataset(data)
    cases = [case for split in SPLITS for case in getattr(dataset, split)]
    judged = (dataset.validation or cases)[: JUDGED if precision == "int8" else 1]
    given = {str(scan)} if scan is not None else set()
    others = [case for case in cases if case not in dataset.validation and case not in judged]
    unseen = [case for case in others if not given & set(map(str, case.images))]
    picked = np.linspace(0, len(unseen) - 1, min(CALIBRATED, len(unseen))).astype(int)
    return Scans(_images(judged) if scan is None else (scan,), _images(unseen[number] for number in picked))


def _images(cases: Iterable[Case]) -> tuple[Scan, ...]:
    return tuple(case.images for case in cases)


def export(
    reference: str | Path,
    out: Path | None = None,
    scan: Scan | None = None,
    form: Form | None = None,
    data: Path | None = None,
) -> tuple[Path, list[Parity]]:
    """Return the path of the ONNX file and how it agrees with torch on a CT-like phantom and on real scans.

    Real scans are `scan`, or a validation case of the data set in `data`. The graph has a fixed window and a free
    batch; its metadata holds input, labels, overlap and card, and `segmenter.json` beside it (for another name than
    model.onnx, <name>.json) tells the same to people. A graph in int8 is calibrated on training cases of `data`, and
    judged on real scans alone, for its ranges are not made for a phantom.
    Raises ExportError when the graph does not agree with the model; then nothing is written. CardError for an encoder,
    ShapeError for a window that the encoder does not take, DataError for a folder that is no data set.
    """
    card, form = find_model(reference), form or Form()
    if card.block.finetuning is None:
        raise CardError(f"{card.name} is an encoder; export a model with a task, see `mimzoo list`")
    scans = choose_scans(scan, data, form.precision)
    if form.precision == "int8" and not (scans.judged and scans.calibrated):
        raise ExportError("int8 is calibrated on some scans and judged on others; name a data set with --data")
    path = checked_path(out) if out else default_path(reference, card)
    model = load_card(card, crop=form.roi)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = onnx_bytes(model, card, form, scans.calibrated)
    phantom = () if form.precision == "int8" else (phantom_for(model.input),)
    parities = list(compare(model, content, card, model.input, [*phantom, *scans.judged]))
    for parity in parities:
        if not parity.holds(form.precision):
            said = f"the graph of {card.name}, exported in {form.precision}, is not its model: {parity}"
            raise ExportError(f"{said} (Dice must be {LEAST_DICE[form.precision]}); nothing was written")
    write_graph(path, content)
    if out is None and is_folder_reference(reference):
        exported = Exported(
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            precision=form.precision,
            roi=form.roi,
            parity=tuple(parities),
        )
        write_card(update_card(card, onnx=exported), path.parent)
    return path, parities


def write_graph(path: Path, content: bytes) -> None:
    """Write an ONNX file, and what its metadata says, for people to read, beside it."""
    props = {prop.key: prop.value for prop in onnx.load_from_string(content).metadata_props}
    told = json.dumps(json.loads(props["mimzoo"]), indent=2)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    with replacing(description_of(path)) as temporary:
        temporary.write_text(told + "\n", encoding="utf-8")


def description_of(path: Path) -> Path:
    """Return where what an ONNX file says of itself is told to people; nothing is ever read from there."""
    return path.with_name(DESCRIPTION) if path.name == MODEL_FILE else path.with_suffix(".json")


def checked_path(path: Path) -> Path:
    """Return a path that an ONNX file can be written to; ExportError for a folder, or where no .onnx ends its name."""
    if path.suffix != ".onnx" or path.is_dir():
        raise ExportError(
            f"{path} is no name of an ONNX file; write one that ends in .onnx, such as {path / MODEL_FILE}"
        )
    return path


def default_path(reference: str | Path, card: Card) -> Path:
    """Return where the ONNX file goes when nobody says: beside the card of a run, else below runs/.

    Raises ExportError where a run of the same name lies there, whose model is another one.
    """
    if is_folder_reference(reference):
        return Path(reference) / MODEL_FILE
    folder = Path("runs") / card.name
    if (folder / "README.md").is_file():
        raise ExportError(f"{folder} is a run with a model of its own; export ./{folder}, or say where to by --out")
    return folder / MODEL_FILE


def onnx_bytes(model: nn.Module, card: Card, form: Form | None = None, calibrated: Iterable[Scan] = ()) -> bytes:
    """Return the serialised graph of a model with a task, checked, with its metadata.

    `calibrated` are the scans on which the ranges of a graph in int8 are measured.
    """
    form = form or Form()
    input = seen_input(card, form)
    # torch's half() changes a module in place
    module = Halved(copy.deepcopy(model)) if form.precision == "float16" else model
    graph = graph_of(module.eval(), torch.zeros(2, len(input.channels), *input.crop))
    if form.precision == "int8":
        graph = quantise(graph, calibration_windows(calibrated, input))
    onnx.helper.set_model_props(graph, metadata(card, form).to_props())
    onnx.checker.check_model(graph, full_check=True)
    buffer = io.BytesIO()
    onnx.save_model(graph, buffer)
    return buffer.getvalue()


def seen_input(card: Card, form: Form) -> Input:
    """Return what a graph sees of a scan: the card's input, with the graph's own window."""
    return card.block.input.model_copy(update={"crop": form.roi or card.block.input.crop})


def metadata(card: Card, form: Form) -> Metadata:
    """Return what deployment needs to know of a card and its graph."""
    block, input = card.block, seen_input(card, form)
    assert block.finetuning is not None  # checked by export
    return Metadata(
        format=1,
        card=card.name,
        card_sha256=card.sha256(),
        input=input,
        labels=block.labels,
        regions=block.regions,
        target=block.target,
        flip_axes=block.finetuning.augmentation.flip_axes,
        sided_labels=block.finetuning.augmentation.sided_labels,
        roi=input.crop,
        overlap=block.finetuning.overlap,
        precision=form.precision,
    )
