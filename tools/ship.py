"""Turn a finished run into a shipped model folder: float16 storage, hashes, figures; says what the storage costs.

    python tools/ship.py RUN                          writes model_cards/<card name>/ of an encoder
    python tools/ship.py RUN --data DIR --scan PATH   of a segmenter, with model.onnx; PATH, below DIR, is a scan

Float32 tensors are stored as float16 and come back as float32 when loaded, in the ONNX file as well, which is exported
from the stored weights and held against them. The text of the card is that of the shipped card of the same name, so
that a run's card never loses what people wrote. What the model computes of fixed inputs goes to tests/goldens.
"""

import argparse
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from golden import Golden, activation_of, mask_of, waves, write_golden
from onnx import TensorProto, numpy_helper
from PIL import Image
from study_grid import FOLDER
from study_page import read_record

from mimzoo.blocks import Artefact
from mimzoo.cards import Card, find_card, read_card, update_card, write_card
from mimzoo.export import export
from mimzoo.files import replacing
from mimzoo.models import load
from mimzoo.weights import read_weights, save_weights

ROOT = Path(__file__).parents[1] / "model_cards"
RECORDS = FOLDER / "records"
FILES = {"weights": "model.safetensors", "pretraining_weights": "pretraining.safetensors"}
COPIED = ("reconstruction.png", "curves.png", "overlays.png", "metrics.json", "split.json")
LARGEST_BYTES = 12_000_000
# Constants with fewer values are left as they are.
LARGE = 1024


def halve(run: Path, folder: Path, name: str, sha256: str, about: dict[str, str]) -> Artefact:
    """Return the artefact of a weights file of `run`, stored as float16 in `folder`."""
    state = read_weights(run / name, sha256)
    half = {key: value.half() if value.dtype == torch.float32 else value for key, value in state.items()}
    digest, size = save_weights(folder / name, half, about)
    return Artefact(sha256=digest, bytes=size)


def halve_graph(content: bytes) -> bytes:
    """Return a graph whose large constants are stored as float16 and cast to float32, which they must survive as is."""
    model = onnx.load_from_string(content)
    casts = []
    for constant in model.graph.initializer:
        values = numpy_helper.to_array(constant)
        if values.dtype != np.float32 or values.size < LARGE:
            continue
        half = values.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), values):
            continue
        name = constant.name
        constant.CopyFrom(numpy_helper.from_array(half, f"{name}.float16"))
        casts.append(onnx.helper.make_node("Cast", [constant.name], [name], f"{name}.cast", to=TensorProto.FLOAT))
    for place, cast in enumerate(casts):
        model.graph.node.insert(place, cast)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def ship_graph(folder: Path, scan: Path) -> None:
    """Export a shipped segmenter, held against its stored weights, into its folder in half the size."""
    path, parities = export(folder, scan=str(scan))
    for parity in parities:
        print(parity)
    whole = path.read_bytes()
    content, card = halve_graph(whole), read_card(folder)
    sample = waves(len(card.block.input.channels), card.block.input.crop)
    before, after = (
        onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, {"volume": sample})[0]
        for graph in (whole, content)
    )
    if not np.array_equal(before, after):
        raise SystemExit(f"{path}: stored as float16 it computes something else")
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    assert card.block.onnx is not None  # as export left it
    changed = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    write_card(update_card(card, onnx=card.block.onnx.model_copy(update=changed)), folder)


def loss_of_storage(run: Path, folder: Path) -> float:
    """Return the largest relative difference of an output between the run's model and the shipped one."""
    block = read_card(run).block
    volume = torch.from_numpy(waves(len(block.input.channels), block.input.crop))
    with torch.inference_mode():
        before, after = (load(model)(volume) for model in (run, folder))
    before, after = (found[-1] if isinstance(found, list) else found for found in (before, after))
    return float((before - after).abs().max() / before.abs().max())


def as_recorded(card: Card, run: str) -> Card:
    """Return the card of a recorded run of the study with the command that trains it on the same cases, and on which.

    To a run, the training scans that the study sets apart to select weights are the validation scans.
    """
    path = RECORDS / f"{run}.json"
    if not path.is_file():
        return card
    apart = f"{read_record(path).told['selection']} training scans set apart"
    metrics = [
        each.model_copy(update={"protocol": each.protocol.replace("the validation scans", apart)})
        for each in card.block.metrics
    ]
    return update_card(card, metrics=metrics, command=f"python tools/reproduce.py {run} --data DIR")


def ship(run: Path, data: Path | None, scan: Path | None) -> Path:
    """Return the folder of a run's model, made ready to be shipped."""
    card = as_recorded(read_card(run), run.name)
    folder, shipped = ROOT / card.name, find_card(card.name)
    about = {"card": card.name, "card_sha256": card.sha256()}
    artefacts = {key: getattr(card.block, key) for key in FILES}
    halved = {key: halve(run, folder, FILES[key], found.sha256, about) for key, found in artefacts.items() if found}
    write_card(replace(update_card(card, **halved), front=shipped.front, text=shipped.text), folder)
    for name in COPIED:
        if (run / name).is_file():
            shutil.copy(run / name, folder / name)
    for picture in folder.glob("*.png"):
        # 256 colours are enough for grey planes and a few labels.
        Image.open(picture).convert("RGB").quantize(256).save(picture, optimize=True)
    golden = Golden(activation_of(folder))
    if data is not None and scan is not None:
        ship_graph(folder, scan)
        golden = replace(golden, scan=scan.relative_to(data).as_posix(), mask=mask_of(folder, scan))
    write_golden(card.name, golden)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--scan", type=Path, help="the scan of a segmenter's golden mask")
    asked = parser.parse_args()
    run, data, scan = (None if path is None else path.resolve() for path in (asked.run, asked.data, asked.scan))
    if read_card(run).block.finetuning is not None and (data is None or scan is None):
        raise SystemExit(f"{run} is a model with a task; add --data and --scan for its ONNX file and its golden mask")
    folder = ship(run, data, scan)
    for path in folder.iterdir():
        if path.stat().st_size > LARGEST_BYTES:
            raise SystemExit(f"{path} is larger than the {LARGEST_BYTES / 1e6:.0f} MB that are shipped at most")
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB; outputs differ by at most {loss_of_storage(run, folder):.1e} of the largest")


if __name__ == "__main__":
    main()
