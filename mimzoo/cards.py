"""Model cards: the one source of truth of a model, read strictly, found by name, written without half-written files."""

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mimzoo.blocks import CardBlock, model_index
from mimzoo.errors import CardError, UnknownNameError, WeightsError, suggest
from mimzoo.files import replacing
from mimzoo.recipes import Block
from mimzoo.registry import registry

NAME = re.compile(r"[a-z0-9]+(?:[-.][a-z0-9]+)*")
FENCE = "---\n"
# Front matter that is read and written by itself; the rest is kept as it is.
DERIVED = {"mimzoo", "model-index"}
# The safe loader, in C where PyYAML was built with it.
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Card:
    """A model card: its name, its `mimzoo:` block, the rest of the front matter, the text, and its folder on disk."""

    name: str
    block: CardBlock
    front: dict[str, Any]
    text: str
    folder: Path | None

    @property
    def kind(self) -> str:
        """Return "encoder", "segmenter", "classifier" or "regressor"."""
        return self.block.kind

    def file(self, name: str) -> Path | None:
        """Return the path of a file beside the card, or None when it is not there."""
        path = None if self.folder is None else self.folder / name
        return path if path is not None and path.is_file() else None

    def required(self, name: str) -> Path:
        """Return the path of a file that the card names beside itself; WeightsError when it is not there."""
        path = self.file(name)
        if path is None:
            raise WeightsError(
                f"{self.name}: {name} is not beside its card in {self.folder}; put it there, "
                "or pip install mimzoo-weights where it is a model of mimzoo's own"
            )
        return path

    def sha256(self) -> str:
        """Return the hash of the block's recipe: of what decides the model, not of what was measured on it."""
        made = {"weights", "pretraining_weights", "onnx", "metrics", "command", "overrides"}
        text = json.dumps(self.block.model_dump(mode="json", exclude=made), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def read_card(folder: Path) -> Card:
    """Return the card of a folder, validated.

    Raises CardError with the key path, what was given and what is allowed.
    """
    path = folder / "README.md"
    if not path.is_file():
        raise CardError(f"{folder} holds no model card; expected {path}")
    front, text = _split(path)
    return parse_card(folder.name, front, text, folder)


def parse_card(name: str, front: dict[str, Any], text: str, folder: Path | None) -> Card:
    """Return the card made of this front matter and text, validated strictly: "1e-4" is no number, 1 no text.

    Raises CardError with the key path.
    """
    if not isinstance(front.get("mimzoo"), dict):
        raise CardError(f"card {name}: the front matter has no `mimzoo:` block; see CONTRIBUTING.md for its keys")
    rest = {key: value for key, value in front.items() if key not in DERIVED}
    # JSON mode takes lists for tuples and stays strict about everything else.
    raw = json.dumps(front["mimzoo"], default=str)
    try:
        block = CardBlock.model_validate_json(raw, strict=True)
    except ValidationError as error:
        raise CardError(f"card {name}: {explain(error, CardBlock)}") from None
    named = str(rest.get("model_name", name))
    if "model_name" in rest and not NAME.fullmatch(named):
        raise CardError(f"card {name}: model_name: {named!r} is no name; write small letters, digits and hyphens")
    return Card(named, block, rest, text, folder)


def explain(error: ValidationError, model: type[Block]) -> str:
    """Return one sentence for the first thing that pydantic found wrong, with its key path."""
    # A misspelt key shows up twice, as unknown and as missing: the first says more.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    path = ".".join(str(part) for part in first["loc"])
    given = first["input"]
    if first["type"] == "extra_forbidden":
        return f"{path}: unknown key; {suggest(str(first['loc'][-1]), _keys_at(model, first['loc'][:-1]))}"
    if isinstance(given, str) and first["type"] in {"float_type", "int_type"}:
        return f"{path}: a number is needed, got the text {given!r}{_number_hint(given)}"
    if first["type"] == "missing":
        return f"{path}: this key is required"
    shown = json.dumps(given, default=str)
    return f"{path or 'mimzoo'}: {first['msg'][0].lower()}{first['msg'][1:]}, got {shown[:80]}"


def _number_hint(text: str) -> str:
    number = _number(text)
    return f"; YAML reads {text} as text, write {number:.1e} or {number!r}" if isinstance(number, float) else ""


def _number(text: Any) -> Any:
    """Return the number that a text such as "1e-4" means to a person, or the value as it is."""
    try:
        return float(text) if isinstance(text, str) else text
    except ValueError:
        return text


def _keys_at(model: type[Block], path: tuple[int | str, ...]) -> list[str]:
    """Return the keys allowed at a key path, found in the model's JSON schema."""
    schema = model.model_json_schema()
    node: dict[str, Any] = schema
    for part in path:
        options = [_follow(schema, option) for option in [node, *node.get("anyOf", []), *node.get("oneOf", [])]]
        listed = next((o["items"] for o in options if isinstance(part, int) and "items" in o), node)
        node = next((o["properties"][part] for o in options if part in o.get("properties", {})), listed)
        node = _follow(schema, node)
    found = [_follow(schema, o) for o in [node, *node.get("anyOf", []), *node.get("oneOf", [])]]
    return sorted({key for option in found for key in option.get("properties", {})})


def _follow(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    target: dict[str, Any] = schema["$defs"][node["$ref"].split("/")[-1]] if "$ref" in node else node
    return target


def _split(path: Path) -> tuple[dict[str, Any], str]:
    content = path.read_text(encoding="utf-8")
    parts = content.split(FENCE, 2)
    if not content.startswith(FENCE) or len(parts) < 3:
        raise CardError(f"{path} has no YAML front matter between two `---` lines")
    try:
        front = yaml.load(parts[1], Loader)
    except yaml.YAMLError as error:
        raise CardError(f"{path}: the front matter is no valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(front, dict):
        raise CardError(f"{path}: the front matter must be a mapping, got {type(front).__name__}")
    return front, parts[2]


def render_card(card: Card) -> str:
    """Return the content of a card's README.md: front matter in a fixed order, then the card's text.

    Its `model-index`, from which the Hub shows figures, is made from the metrics.
    """
    block = card.block.model_dump(mode="json", exclude_none=True, exclude_defaults=False)
    index = model_index(card.name, card.block)
    front = {**card.front, "model_name": card.name, **({"model-index": index} if index else {}), "mimzoo": block}
    return FENCE + yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=120) + FENCE + card.text


def write_card(card: Card, folder: Path) -> Path:
    """Return the path of README.md written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "README.md"
    with replacing(path) as temporary:
        temporary.write_text(render_card(card), encoding="utf-8")
    return path


def update_card(card: Card, **changes: Any) -> Card:
    """Return the card with keys of its block changed, validated again."""
    merged = {**card.block.model_dump(mode="json"), **changes}
    front = {**card.front, "mimzoo": json.loads(json.dumps(merged, default=_plain))}
    return parse_card(card.name, front, card.text, card.folder)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, Block) else str(value)


def override(card: Card, assignments: list[str]) -> Card:
    """Return the card with `key.path=value` assignments applied to its block and recorded in `overrides`.

    Values are read as YAML ("1.0e-4", "[96, 96, 96]", "true").
    Raises CardError for an unknown key path or a value that the schema refuses.
    """
    block = card.block.model_dump(mode="json")
    for text in assignments:
        path, equals, value = text.partition("=")
        if not equals:
            raise CardError(f"--set {text!r} is no assignment; write key.path=value, such as finetuning.steps=100")
        _assign(block, path.strip().split("."), _number(yaml.load(value, Loader)), text)
    block["overrides"] = [*block["overrides"], *assignments]
    return parse_card(card.name, {**card.front, "mimzoo": block}, card.text, card.folder)


def _assign(block: dict[str, Any], path: list[str], value: Any, text: str) -> None:
    node: Any = block
    for depth, part in enumerate(path[:-1]):
        if not isinstance(node, dict) or part not in node:
            known = node if isinstance(node, dict) else {}
            raise CardError(f"--set {text!r}: no key {'.'.join(path[: depth + 1])!r}; {suggest(part, known)}")
        node = node[part]
    if not isinstance(node, dict):
        raise CardError(f"--set {text!r}: {'.'.join(path[:-1])!r} is not set in this card, so nothing lies below it")
    node[path[-1]] = value


def mimzoo_home() -> Path:
    """Return the local store: `MIMZOO_HOME`, by default a folder in the user's cache."""
    given = os.environ.get("MIMZOO_HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given).expanduser() if given else Path(cache) / "mimzoo"


def store_folder(name: str) -> Path:
    """Return the folder of a model in the local store."""
    return mimzoo_home() / "models" / name


def card_folders() -> dict[str, Path]:
    """Return the folders of all cards that have a bare name: offered by plugins, or in the local store."""
    models = mimzoo_home() / "models"
    local = sorted(path.parent for path in models.glob("*/README.md")) if models.is_dir() else []
    offered = {offer.name: Path(offer.value) for offer in registry().of_kind("card")}
    return {**{folder.name: folder for folder in local}, **offered}


def is_folder_reference(reference: str | Path) -> bool:
    """Return whether a reference is spelt as a folder: a Path, or text that begins with `.`, `/` or `~`."""
    return isinstance(reference, Path) or reference.startswith((".", "/", "~"))


def find_card(reference: str | Path) -> Card:
    """Return the card that a bare name or a folder refers to; the `hf://` spelling is `hub.find_card`'s.

    A text that could mean two things is refused, never guessed.
    Raises UnknownNameError with the nearest name or the right spelling; CardError for a bad card.
    """
    if is_folder_reference(reference):
        return read_card(Path(reference).expanduser().resolve())
    name = str(reference)
    if not NAME.fullmatch(name):
        raise UnknownNameError(
            f"{name!r} is no model name; write a bare name (vit-mae-hippocampus), "
            f"a folder (./{name.lstrip('./')}) or hf://org/name@tag"
        )
    folders = card_folders()
    if name not in folders:
        here = f"; for the folder of that name write ./{name}" if Path(name, "README.md").is_file() else ""
        raise UnknownNameError(f"no model is called {name!r}; {suggest(name, folders)}{here}")
    registry_conflict = [text for text in registry().conflicts() if text.startswith(f"card {name!r}")]
    if registry_conflict:
        raise CardError(registry_conflict[0])
    return replace(read_card(folders[name]), name=name)
