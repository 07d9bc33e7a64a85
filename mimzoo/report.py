"""A run on one page: `report.html` in its folder, which needs nothing but itself. No torch: `mimzoo report RUN`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mimzoo.cards import Card, read_card
from mimzoo.errors import DataError
from mimzoo.figures import draw_curves
from mimzoo.files import replacing
from mimzoo.markup import Markup, element, page, picture, section, table
from mimzoo.results import evaluation, heading
from mimzoo.sessions import Session, read_sessions

FILE = "report.html"
HISTORY = "history.csv"
RECONSTRUCTIONS = "reconstructions"
# What decides the model, as the card orders it.
DECIDES = ("encoder", "input", "pretraining", "finetuning", "labels", "regions", "target")
WHAT = {
    "README.md": "the model card: recipe, hashes, figures",
    "model.safetensors": "the weights",
    "pretraining.safetensors": "what else pretraining learned",
    "model.onnx": "the model for deployment without torch",
    "segmenter.json": "what that file says of itself",
    "metrics.json": "every case of the evaluation",
    "history.csv": "every recorded figure",
    "sessions.json": "when and on what it trained",
    "curves.png": "training curves",
    "reconstruction.png": "what it makes of a hidden part, at the end",
    "overlays.png": "truth and prediction",
    "reconstructions": "the same crop at each stage",
    "checkpoints": "the state to continue from",
    "trackers.json": "what other trackers call this run",
    "wandb": "what wandb keeps of it here",
    "tensorboard": "event files, for tensorboard --logdir",
}


def report_run(folder: Path) -> Path:
    """Return the path of `report.html` written into a run's folder, at whatever stage it is; curves are drawn again.

    Raises CardError for a folder without a card, DataError for a history, sessions or figures that are damaged.
    """
    card, done = read_card(folder), last_step(folder / HISTORY)
    if done:
        draw_curves(folder / "curves.png", folder / HISTORY)
    content = page(f"{card.name} ({card.kind})", *sections(card, folder, done))
    with replacing(folder / FILE) as temporary:
        temporary.write_text(content, encoding="utf-8")
    return folder / FILE


def last_step(history: Path) -> int:
    """Return the last step that a history records, 0 where there is none; DataError where it has no steps."""
    lines = history.read_text(encoding="utf-8", errors="replace").splitlines()[1:] if history.is_file() else []
    step = lines[-1].partition(",")[0] if lines else "0"
    if not step.isdecimal():
        raise DataError(f"{history}: line {len(lines) + 1} begins with no step: {lines[-1]!r}")
    return int(step)


def sections(card: Card, folder: Path, done: int) -> Iterator[Markup]:
    """Yield the parts of a run's page; those of which there is nothing to tell are empty."""
    sessions = read_sessions(folder)
    yield header(card, sessions, done)
    yield section("Curves", shown(folder / "curves.png", "Training curves", "scroll"))
    yield section("One crop over time", strip(folder / RECONSTRUCTIONS))
    yield section("Reconstruction", shown(folder / "reconstruction.png", "A crop: original, masked, reconstructed"))
    yield section("Truth and prediction", shown(folder / "overlays.png", "Scans with truth and prediction"))
    yield section("Metrics", quoted(card), *evaluation(folder / "metrics.json"))
    yield section("Recipe", recipe(card))
    yield section("Sessions", sittings(sessions))
    yield section("Files", element("p", "In ", element("code", str(folder.resolve()))), files(card, folder))


def header(card: Card, sessions: tuple[Session, ...], done: int) -> Markup:
    """Return name, what it is, the main numbers, and the command that makes it."""
    facts = [fact(heading(found.name), f"{found.value:.4f}", found.data) for found in card.block.metrics[:2]]
    schedule = card.block.finetuning or card.block.pretraining
    if schedule is not None:
        steps = f"{schedule.steps}" if done >= schedule.steps else f"{done} of {schedule.steps}"
        facts += [fact("steps", steps, f"of {schedule.batch} crops"), fact("seed", f"{schedule.seed}")]
    if sessions:
        facts.append(fact("trained for", duration(sum(each.seconds for each in sessions)), devices(sessions[-1])))
    if card.block.weights is not None:
        facts.append(fact("weights", size(card.block.weights.bytes)))
    command = element("pre", card.block.command) if card.block.command else ""
    return element(
        "header",
        element("h1", card.name),
        element("p", summary(card)),
        prose(card.text),
        element("dl", *facts, class_="facts"),
        command,
    )


def fact(name: str, value: str, note: str = "") -> Markup:
    """Return a value under its name, with a note below."""
    below = element("small", note) if note else ""
    return element("div", element("dt", name), element("dd", value, below))


def summary(card: Card) -> str:
    """Return in two sentences what a model is and learned from, and what it sees."""
    block, input = card.block, card.block.input
    spacing, crop = (" x ".join(f"{n:g}" for n in sizes) for sizes in (input.spacing_mm, input.crop))
    sees = f"It sees {', '.join(input.channels)} at {spacing} mm in crops of {crop} voxels."
    if block.finetuning is not None:
        made = block.finetuning
        begun = f"the weights of {made.start}" if made.start else "scratch"
        answers = f"{card.kind.capitalize()} of {', '.join(block.task.names)}"
        return f"{answers}: {block.encoder.name} with {made.head.name}, from {begun}, on {made.data}. {sees}"
    if block.pretraining is not None:
        pretrained = f"pretrained by {block.pretraining.objective.name} on {block.pretraining.data}"
        return f"Encoder {block.encoder.name}, {pretrained}. {sees}"
    return f"Encoder {block.encoder.name}. {sees}"


def prose(text: str) -> Markup:
    """Return the first paragraph of a card's text, words between backticks as code."""
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text)]
    first = next((part for part in paragraphs if part and not part.startswith("#")), "")
    # Every second piece lies between backticks.
    pieces = enumerate(re.split(r"`([^`]+)`", first))
    return element("p", *(element("code", piece) if place % 2 else piece for place, piece in pieces), class_="quiet")


def shown(path: Path, words: str, class_: str = "whole") -> Markup:
    """Return a picture where it is there."""
    return element("div", picture(path, words), class_=class_) if path.is_file() else Markup()


def strip(folder: Path) -> Markup:
    """Return the pictures of one crop side by side: as it is, what is hidden of it, and reconstructed at each step."""
    steps = sorted(folder.glob("step_*.png"))
    captions = {"original": "original", "masked": "masked"} | {path.stem: f"step {step_of(path)}" for path in steps}
    paths = [(folder / f"{stem}.png", words) for stem, words in captions.items()]
    found = [picture(path, f"The crop, {words}") for path, words in paths if path.is_file()]
    return element("div", *found, class_="strip") if steps else Markup()


def step_of(path: Path) -> int:
    """Return the step of `step_000250.png`; DataError for a name without one."""
    number = path.stem.removeprefix("step_")
    if not number.isdecimal():
        raise DataError(f"{path}: no step is called {number!r}; remove the file")
    return int(number)


def quoted(card: Card) -> Markup:
    """Return the figures that the card quotes, each with the protocol that produced it."""
    rows = [(heading(found.name), f"{found.value:.4f}", found.data, found.protocol) for found in card.block.metrics]
    return table(["metric", "value", "data", "protocol"], rows, "settings") if rows else Markup()


def recipe(card: Card) -> Markup:
    """Return what decides the model, a table for each part of the card."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for path, value in settings(card).items():
        part, _, key = path.removeprefix("pretraining.").removeprefix("finetuning.").partition(".")
        above, below = (part, key) if key else (path.partition(".")[0], part)
        parts.setdefault(above, []).append((below, str(value)))
    tables = [element("div", element("h3", name), table([], rows, "settings")) for name, rows in parts.items()]
    return element("div", *tables, class_="parts")


def settings(card: Card) -> dict[str, Any]:
    """Return what decides the model by key path: "pretraining.optimiser.lr" -> 0.001."""
    block = card.block.model_dump(mode="json", exclude_none=True)
    return dict(flattened({name: block[name] for name in DECIDES if name in block}))


def flattened(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings by key path; lists are whole and JSON, and left out where they are empty."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from flattened(below, f"{path}.{key}" if path else str(key))
    elif value not in ("", []):
        yield path, json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def sittings(sessions: tuple[Session, ...]) -> Markup:
    """Return when, how long and on what the run trained, and with which versions."""
    head = ["begun", "steps", "duration", "device", "precision", "processor", "versions"]
    rows = [
        (
            each.begun,
            f"{each.first_step} to {each.last_step}",
            duration(each.seconds),
            devices(each),
            each.machine.precision,
            f"{each.machine.processor}, {each.machine.cores} cores",
            ", ".join(f"{name} {version}" for name, version in each.versions.items()),
        )
        for each in sessions
    ]
    return table(head, rows, "settings") if rows else Markup()


def devices(session: Session) -> str:
    """Return the device of a session, with how many there were if several."""
    machine = session.machine
    return f"{machine.processes} x {machine.device}" if machine.processes > 1 else machine.device


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units: 4000 -> "1 h 7 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size(count: int) -> str:
    """Return a number of bytes in kB or MB."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def files(card: Card, folder: Path) -> Markup:
    """Return what lies in the folder, with sizes, and the hashes that the card states."""
    hashes = {name: artefact.sha256 for name, artefact in card.block.artefacts().items()}
    known = [path for path in sorted(folder.iterdir()) if path.name in WHAT]
    rows = [
        (
            path.name + "/" * path.is_dir(),
            WHAT[path.name],
            size(sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())),
            element("code", hashes[path.name]) if path.name in hashes else "",
        )
        for path in known
    ]
    return table(["file", "what it is", "size", "sha256"], rows, "settings")
