"""Models in the local store: brought from the Hub, whole and verified: `mimzoo pull NAME`."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mimzoo.blocks import Artefact
from mimzoo.cards import NAME, Card, card_folders, find_card, is_folder_reference, read_card, store_folder
from mimzoo.endpoint import hub_api, speaking
from mimzoo.errors import CardError, UnknownNameError, WeightsError
from mimzoo.files import sha256_of
from mimzoo.hub import (
    SCHEME,
    WEIGHTS,
    HubReference,
    cached,
    fetch,
    find_model,
    has_content,
    holds,
    is_model_file,
    list_model,
    parse_reference,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def pull(reference: str, name: str | None = None, *, api: "HfApi | None" = None) -> Card:
    """Return the card of a model brought into the local store, where it loads by its name without network.

    `reference` is `hf://org/name@revision`, or the bare name of a card that states repository and tag; `name` is by
    default the repository's, or that bare name. What is there already with the same content is left as it is.
    Raises CardError for a name that is taken by another model, UnknownNameError for what is not there, WeightsError
    for what cannot be fetched or is not what its card names.
    """
    folder = target_folder(reference, name)
    card = None if reference.startswith(SCHEME) else find_card(reference)
    named = None if card is None else card.block.artefacts()
    if named is not None and holds(folder, named):
        return find_model(folder.name, local_files_only=True)
    source = parse_reference(reference) if card is None else _published(card)
    api = api or hub_api()
    local = cached(source, named) if source.pinned or named is not None else None
    hashes = list_model(source, api).files if local is None else _hashes(local)
    if card is None or card.name != folder.name:
        _check_offered(folder, hashes)
    if not _same(folder, hashes):
        _bring(source, named, api, local, folder, hashes)
    return find_model(folder.name, local_files_only=True)


def target_folder(reference: str, name: str | None = None) -> Path:
    """Return the folder of the local store into which a model is pulled.

    Raises UnknownNameError when the model's name there could not be found again.
    """
    if name is None and is_folder_reference(reference):
        raise UnknownNameError(f"{reference!r} is a folder and needs no pulling; name a model or hf://org/name@tag")
    given = name or (parse_reference(reference).repo.split("/")[1] if reference.startswith(SCHEME) else reference)
    if not NAME.fullmatch(given):
        raise UnknownNameError(f"{given!r} is no model name; give it one of small letters and hyphens with --name")
    return store_folder(given)


def _published(card: Card) -> HubReference:
    weights = card.block.weights
    if weights is None or weights.repo is None or weights.tag is None:
        raise WeightsError(f"the card {card.name} states no repository and tag; pull it as hf://org/{card.name}@tag")
    return HubReference(weights.repo, weights.tag)


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in _model_files(folder)}


def _model_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and is_model_file(path.name)]


def _check_offered(folder: Path, hashes: Mapping[str, str]) -> None:
    """Raise CardError when a plugin offers another model under the name: its card would stay the one that is found."""
    offered = card_folders().get(folder.name, folder)
    if offered == folder:
        return
    weights = read_card(offered).block.weights
    if weights is None or weights.sha256 != hashes.get(WEIGHTS):
        raise CardError(f"a plugin offers another model called {folder.name!r}; give this one a name with --name")


def _same(folder: Path, hashes: Mapping[str, str]) -> bool:
    """Return whether the store has exactly this model, False where it has nothing of that name.

    Raises CardError when another model lies there.
    """
    if not folder.exists():
        return False
    if all((folder / name).is_file() and has_content(folder / name, digest) for name, digest in hashes.items()):
        return True
    raise CardError(f"{folder} holds something else already; give this model another name with --name, or remove that")


def _bring(
    source: HubReference,
    named: Mapping[str, Artefact] | None,
    api: "HfApi",
    local: Path | None,
    folder: Path,
    hashes: Mapping[str, str],
) -> None:
    """Put the files of a model into its folder of the store, which is whole or not there at any time."""
    with speaking(str(source), home="MIMZOO_HOME"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".pull-", dir=folder.parent) as scratch:
            found = local or fetch(source, named=named, api=api, cache=Path(scratch) / "cache")
            made = Path(scratch) / folder.name
            made.mkdir()
            for path in _model_files(found):
                shutil.copyfile(path, made / path.name)
            try:
                made.rename(folder)
            except OSError:
                # Another process was faster: all is well if it brought the same.
                if not _same(folder, hashes):
                    raise
