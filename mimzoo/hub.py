"""Cards and weights on the Hugging Face Hub: found, fetched at a named revision, verified; never needs torch."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from mimzoo.blocks import Artefact, Repo, Tag
from mimzoo.cards import Card, find_card, mimzoo_home, read_card, store_folder
from mimzoo.endpoint import hub_api, patiently, speaking
from mimzoo.errors import UnknownNameError, WeightsError, suggest
from mimzoo.files import sha256_of
from mimzoo.verified import verify

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
CARD, WEIGHTS = "README.md", "model.safetensors"
# The Hub counts a download of a model when its config.json is asked for.
FILES = (CARD, WEIGHTS, "pretraining.safetensors", "model.onnx", "segmenter.json", "metrics.json", "config.json")
FIGURE = re.compile(r"\w[\w .-]*\.png")
COMMIT = re.compile(r"[0-9a-f]{40}")
# What means one content for ever: a commit, or a tag such as v1, 1.2.0 or v2-rc1, for mimzoo never moves a tag.
VERSION = re.compile(r"v?\d+(\.\d+)*([.-]?[a-z]+\d*)?")


@dataclass(frozen=True)
class HubReference:
    """A repository on the Hub at a revision (a tag, branch or commit)."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}@{self.revision}"

    @property
    def pinned(self) -> bool:
        """Return whether the revision means one content for ever: a commit, or a tag that names a version."""
        return bool(COMMIT.fullmatch(self.revision) or VERSION.fullmatch(self.revision))


@dataclass(frozen=True)
class Listing:
    """A model's files on the Hub at one commit, name -> sha256, or git's sha1 of a file that is not in LFS."""

    commit: str
    private: bool
    files: Mapping[str, str]


def parse_reference(text: str) -> HubReference:
    """Return the repository and revision of `hf://org/name@revision`.

    Raises UnknownNameError with the right spelling; the revision is required, so that a name means one content.
    """
    repo, at, revision = text.removeprefix(SCHEME).partition("@")
    parts = revision.split("/")
    if not (text.startswith(SCHEME) and at and fits(Repo, repo) and all(fits(Tag, part) for part in parts)):
        raise UnknownNameError(f"{text!r} is no Hub reference; write hf://org/name@tag, such as hf://org/model@v1")
    return HubReference(repo, revision)


def fits(kind: Any, text: str) -> bool:
    """Return whether a text is a `Repo` or `Tag` as cards may name it."""
    try:
        TypeAdapter(kind).validate_python(text)
    except ValidationError:
        return False
    return True


def find_model(reference: str | Path, *, local_files_only: bool = False) -> Card:
    """Return the card of a model with its files at hand as far as they exist.

    Takes a bare name, a folder, or `hf://org/name@revision`. Weights named by a card but not beside it come from the
    local store or the Hub's cache if they are those by their sha256, else from the repository and tag that the card
    states. Without network: with `local_files_only` or HF_HUB_OFFLINE, and for all that is pinned and cached.
    Raises the errors of `find_card` and `fetch`.
    """
    if isinstance(reference, str) and reference.startswith(SCHEME):
        hub = parse_reference(reference)
        return replace(read_card(fetch(hub, local_files_only=local_files_only)), name=hub.repo.split("/")[1])
    card = find_card(reference)
    weights, named = card.block.weights, card.block.artefacts()
    if weights is None or card.file(WEIGHTS) is not None:
        return card
    if holds(store_folder(card.name), named):
        return replace(card, folder=store_folder(card.name))
    if weights.repo is None or weights.tag is None:
        return card
    published = HubReference(weights.repo, weights.tag)
    return replace(card, folder=fetch(published, named=named, local_files_only=local_files_only))


def fetch(
    reference: HubReference,
    *,
    named: Mapping[str, Artefact] | None = None,
    local_files_only: bool = False,
    api: "HfApi | None" = None,
    cache: Path | None = None,
) -> Path:
    """Return the local folder of a repository's model files at a revision, downloaded once into the Hub's cache.

    What is downloaded must have the sha256 that `named` states, by default the repository's own card; a file that has
    not is thrown away. What is pinned or `named` is not asked for again once it is cached.
    Raises UnknownNameError when the repository, the revision or a file is not there, WeightsError when the Hub cannot
    be reached or what comes from it is not what the card names.
    """
    from huggingface_hub import is_offline_mode

    offline = local_files_only or is_offline_mode()
    folder = cached(reference, named, cache)
    if folder is not None and (offline or reference.pinned or named is not None):
        return folder
    if offline:
        raise WeightsError(f"{reference} is not in the local cache and the Hub must not be asked; go online once")
    try:
        folder = _download(reference, api or hub_api(), cache)
    except WeightsError as error:
        seen = "" if folder is None else "; HF_HUB_OFFLINE=1 takes what was seen last"
        raise WeightsError(f"{error}{seen}") from None
    if named is None:
        named = read_card(folder).block.artefacts()
        _check_there(reference, folder, list(named))
    _check_there(reference, folder, [WEIGHTS] if WEIGHTS in named else [])
    _check_content(reference, folder, named)
    return folder


def cached(
    reference: HubReference, named: Mapping[str, Artefact] | None = None, cache: Path | None = None
) -> Path | None:
    """Return the folder of a model in the Hub's cache, None where it is not there whole and as it is named.

    `named` are the artefacts of a card at hand; by default they are those of the card in the cache, which must all be
    there.
    """
    # Without its client nothing can have come from the Hub, and what is here is told without asking for it.
    if find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    with speaking(str(reference)):
        found = try_to_load_from_cache(reference.repo, CARD, cache_dir=cache, revision=reference.revision)
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    if named is not None:
        return folder if holds(folder, named) else None
    own = read_card(folder).block.artefacts()
    return folder if all(_is_named(folder / name, artefact) for name, artefact in own.items()) else None


def holds(folder: Path, named: Mapping[str, Artefact]) -> bool:
    """Return whether a folder has these weights, and none of the other files that are named with other content."""
    there = {name: artefact for name, artefact in named.items() if (folder / name).is_file()}
    return WEIGHTS in there and all(_is_named(folder / name, artefact) for name, artefact in there.items())


def _is_named(path: Path, artefact: Artefact) -> bool:
    try:
        verify(path, artefact.sha256)
    except WeightsError:
        return False
    return True


def has_content(content: Path | bytes, digest: str) -> bool:
    """Return whether a file, or a content, has a hash as `Listing` gives it."""
    if len(digest) == 64:
        found = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256_of(content)
        return found == digest
    blob = content if isinstance(content, bytes) else content.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest() == digest


def is_model_file(name: str) -> bool:
    """Return whether a file of that name belongs to a model: a figure, or one of `FILES`."""
    return name in FILES or FIGURE.fullmatch(name) is not None


def list_model(reference: HubReference, api: "HfApi") -> Listing:
    """Return the files of a model on the Hub at a revision.

    Raises UnknownNameError when the repository or revision is not there, WeightsError when the Hub cannot be reached,
    or lists names that would leave their folder.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import RevisionNotFoundError

    ask = partial(api.model_info, reference.repo, revision=reference.revision, files_metadata=True)
    with speaking(str(reference)):
        try:
            info = patiently(partial(ask, timeout=constants.HF_HUB_ETAG_TIMEOUT))
        except RevisionNotFoundError:
            refs = api.list_repo_refs(reference.repo)
            known = [ref.name for ref in (*refs.tags, *refs.branches)]
            hint = suggest(reference.revision, known)
            raise UnknownNameError(f"{reference}: no such revision in {reference.repo}; {hint}") from None
    siblings = info.siblings or []
    strays = [file.rfilename for file in siblings if not _stays_inside(file.rfilename)]
    if strays or not COMMIT.fullmatch(str(info.sha)):
        what = f"lists {strays[0]!r}, which would leave its folder" if strays else f"calls its commit {info.sha!r}"
        raise WeightsError(f"{reference} {what}; nothing of it was downloaded")
    hashes = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id or "" for file in siblings}
    ours = {name: digest for name, digest in hashes.items() if is_model_file(name)}
    return Listing(str(info.sha), bool(info.private), ours)


def _stays_inside(name: str) -> bool:
    """Return whether a file of that name stays in the folder it is put into, on every platform."""
    windows = PureWindowsPath(name)
    parts = {*PurePosixPath(name).parts, *windows.parts}
    return not (".." in parts or name.startswith("/") or windows.drive or windows.root)


def _download(reference: HubReference, api: "HfApi", cache: Path | None) -> Path:
    """Return the folder of a model's files in the cache; the card comes last, so that with it all is there."""
    listing = list_model(reference, api)
    if CARD not in listing.files:
        raise UnknownNameError(f"{reference} holds no {CARD}, so it is no model of mimzoo; check the name")
    get = partial(api.hf_hub_download, reference.repo, cache_dir=cache)
    with speaking(str(reference), home=_home_of(cache)):
        for name in sorted(set(listing.files) - {CARD}):
            patiently(partial(get, filename=name, revision=listing.commit))
        # By its tag, so that the cache learns which commit the tag means
        card = Path(patiently(partial(get, filename=CARD, revision=reference.revision)))
    if card.parent.name != listing.commit:
        raise WeightsError(f"{reference} was changed while it was fetched; try again")
    return card.parent


def _home_of(cache: Path | None) -> str:
    """Return the variable that moves a cache to another disk."""
    if cache is None:
        return "HF_HOME"
    return "MIMZOO_HOME" if cache.is_relative_to(mimzoo_home()) else "TMPDIR"


def _check_there(reference: HubReference, folder: Path, names: list[str]) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise UnknownNameError(f"{reference} has no {name}, which its card names; ask who published it")


def _check_content(reference: HubReference, folder: Path, named: Mapping[str, Artefact]) -> None:
    """Raise WeightsError for a file that is not the one that is named, after taking it out of the cache."""
    for name, artefact in named.items():
        path = folder / name
        if path.is_file() and (found := sha256_of(path)) != artefact.sha256:
            _throw_away(path)
            raise WeightsError(
                f"{reference}: {name} is not the file that its card names: sha256 {found[:12]}..., expected "
                f"{artefact.sha256[:12]}...; it was thrown away, try again or ask who published it"
            )


def _throw_away(path: Path) -> None:
    """Remove a file of the cache with all that its links lead to."""
    while path.is_symlink():
        target = path.parent / path.readlink()
        path.unlink()
        path = target
    path.unlink(missing_ok=True)
