"""A trained model as a repository on the Hugging Face Hub, under a tag that never moves: `mimzoo publish RUN`."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from mimzoo.blocks import ARTEFACTS, Repo, Tag, model_index
from mimzoo.cards import FENCE, Card, Loader, find_card, read_card, render_card, write_card
from mimzoo.endpoint import hub_api, patiently, speaking
from mimzoo.errors import CardError, MimzooError, UnknownNameError, WeightsError
from mimzoo.files import sha256_of
from mimzoo.hub import CARD, HubReference, Listing, fetch, fits, has_content, is_model_file, list_model

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# What people write where a licence should stand, in letters and digits alone
UNSTATED = {"", "na", "none", "null", "other", "seesource", "source", "tba", "tbd", "todo", "unclear", "unknown"}
Content = Path | bytes


@dataclass(frozen=True)
class PublishedFile:
    """A file of a published model, by its content."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Publication:
    """A model on the Hub, or the plan of it: then `commit` is None.

    `deleted` are files of an earlier model that this one has not; `restated` says that the card's `model-index` is
    brought up to date; `made` is False where the same content was under the tag already.
    """

    repo: str
    tag: str
    url: str
    files: tuple[PublishedFile, ...]
    deleted: tuple[str, ...] = ()
    restated: bool = False
    commit: str | None = None
    made: bool = False


def publish(
    reference: str | Path,
    repo: str | None = None,
    tag: str | None = None,
    *,
    private: bool = False,
    dry_run: bool = False,
    api: "HfApi | None" = None,
) -> Publication:
    """Return the publication of a model, a folder or a bare name: one commit, a tag, fetched back and compared.

    `repo` and `tag` are by default those of the card's weights, the tag else v1; `private` is for a repository that
    is yet to be made. A dry run writes and sends nothing. The same content under the same tag is left as it is.
    Raises CardError for a model that must not be published as it is, UnknownNameError for a repository or tag that
    cannot be, WeightsError when files are not those of the card, when the tag is taken, or when the Hub fails.
    """
    card = read_card(_folder(find_card(reference)))
    check_publishable(card)
    target = _target(card, repo, tag)
    api = api or hub_api()
    contents = make_files(card)
    head = _head(target, api)
    plan = Publication(
        target.repo,
        target.revision,
        f"{api.endpoint}/{target.repo}/tree/{target.revision}",
        tuple(_measure(name, content) for name, content in sorted(contents.items())),
        () if head is None else _deleted(head, contents),
        restated=contents[CARD] != (_folder(card) / CARD).read_bytes(),
    )
    if head is not None:
        _check_visible(target, head, private)
        tagged = _tagged(target, api)
        if tagged is not None:
            _check_same(target, tagged, contents)
            return replace(plan, deleted=(), restated=False, commit=tagged.commit)
    if dry_run:
        return plan
    _check_token(target, api)
    if plan.restated:
        write_card(card, _folder(card))
    commit = _commit(target, api, head or _create(target, api, private), contents)
    _tag(target, api, commit)
    _prove(target, api, plan)
    return replace(plan, commit=commit, made=True)


def check_publishable(card: Card) -> None:
    """Raise CardError or WeightsError, one sentence, for the first reason why a model must not be published."""
    block, name = card.block, card.name
    if block.weights is None:
        verb = "finetune" if block.finetuning else "pretrain"
        raise CardError(f"{name} has no weights yet; make them with: mimzoo {verb} {name} --data DIR")
    for key, licence in (("code", block.licence.code), ("data", block.licence.data)):
        if re.sub(r"[\W_]", "", licence).casefold() in UNSTATED:
            raise CardError(
                f"{name}: licence.{key} is {licence!r}, which states none; write its name, such as CC-BY-4.0"
            )
    if not block.metrics:
        verb = f"evaluate {card.folder}" if block.finetuning else f"pretrain {name}"
        raise CardError(f"{name} has no metrics; measure it with: mimzoo {verb} --data DIR")
    if block.command is None and block.origin is None:
        raise CardError(f"{name} does not say how it was made; give its card a `command`, or an `origin` if imported")
    if block.origin is not None and not block.origin.republish:
        raise CardError(
            f"{name} comes from {block.origin.file}, whose licence ({block.origin.licence}) does not let others pass "
            "it on; publish the command that imports it instead"
        )
    _check_files(card)


def _check_files(card: Card) -> None:
    """Raise WeightsError for a file beside the card that is not the one that the card names, or that it does not."""
    named = card.block.artefacts()
    for name in ARTEFACTS.values():
        artefact = named.get(name)
        if artefact is None:
            if (stray := card.file(name)) is not None:
                raise WeightsError(f"{stray} is not named by its card; make it again with mimzoo, or remove it")
            continue
        path = card.required(name)
        found = (path.stat().st_size, sha256_of(path))
        if found != (artefact.bytes, artefact.sha256):
            raise WeightsError(
                f"{path} is not the file that its card names: {found[0]} bytes with sha256 {found[1][:12]}..., "
                f"expected {artefact.bytes} with {artefact.sha256[:12]}...; make it again, or bring the right one back"
            )


def make_files(card: Card) -> dict[str, Content]:
    """Return all files of a published model: name -> its path, or its content where that is derived from the card."""
    folder = _folder(card)
    files: dict[str, Content] = {path.name: path for path in folder.iterdir() if path.is_file()}
    derived = {CARD: _card_content(card), "config.json": _config(card)}
    if "metrics.json" not in files:
        derived["metrics.json"] = _json({"model": card.name, "metrics": card.block.model_dump(mode="json")["metrics"]})
    return {name: content for name, content in {**files, **derived}.items() if is_model_file(name)}


def _folder(card: Card) -> Path:
    assert card.folder is not None  # it was read from there
    return card.folder


def _card_content(card: Card) -> bytes:
    """Return the card as it lies in its folder, or made anew where its `model-index` is not that of its metrics."""
    content = (_folder(card) / CARD).read_bytes()
    front = yaml.load(content.decode().split(FENCE, 2)[1], Loader)
    return content if front.get("model-index") == model_index(card.name, card.block) else render_card(card).encode()


def _config(card: Card) -> bytes:
    """Return config.json, in which others find what a model is; the Hub counts downloads by it."""
    block = card.block.model_dump(mode="json", exclude_none=True)
    keys = ("encoder", "input", "labels", "regions", "target")
    about = {key: block[key] for key in keys if key in block}
    return _json({"library_name": "mimzoo", "name": card.name, "kind": card.kind, **about})


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _measure(name: str, content: Content) -> PublishedFile:
    if isinstance(content, bytes):
        return PublishedFile(name, hashlib.sha256(content).hexdigest(), len(content))
    return PublishedFile(name, sha256_of(content), content.stat().st_size)


def _target(card: Card, repo: str | None, tag: str | None) -> HubReference:
    weights = card.block.weights
    assert weights is not None  # it is publishable
    repo, tag = repo or weights.repo, tag or weights.tag or "v1"
    if repo is None:
        raise UnknownNameError(f"{card.name} names no repository on the Hub; give one with --repo org/name")
    for option, kind, text in (("repo", Repo, repo), ("tag", Tag, tag)):
        if not fits(kind, text):
            raise UnknownNameError(f"--{option} {text!r} cannot be; write --repo org/name --tag v1")
    return HubReference(repo, tag)


def _head(target: HubReference, api: "HfApi") -> Listing | None:
    """Return what the repository holds now, None where there is none that can be read."""
    try:
        return list_model(replace(target, revision="main"), api)
    except UnknownNameError:
        return None


def _check_visible(target: HubReference, head: Listing, private: bool) -> None:
    if private and not head.private:
        raise WeightsError(f"{target.repo} is public already; make it private on its page, or leave --private out")


def _tagged(target: HubReference, api: "HfApi") -> Listing | None:
    """Return what lies under the tag, None where it is free."""
    with speaking(str(target)):
        refs = patiently(lambda: api.list_repo_refs(target.repo))
    if target.revision in {ref.name for ref in refs.branches}:
        raise WeightsError(f"{target.revision!r} is a branch of {target.repo}; choose another --tag")
    return list_model(target, api) if target.revision in {ref.name for ref in refs.tags} else None


def _check_same(target: HubReference, tagged: Listing, contents: Mapping[str, Content]) -> None:
    """Raise WeightsError when the tag has other content than this: a tag never moves."""
    names = sorted(contents.keys() | tagged.files.keys())
    differing = [
        name
        for name in names
        if name not in contents or name not in tagged.files or not has_content(contents[name], tagged.files[name])
    ]
    if differing:
        raise WeightsError(f"{target} exists with another {' and '.join(differing[:3])}; choose another --tag")


def _check_token(target: HubReference, api: "HfApi") -> None:
    from huggingface_hub import get_token

    if not (api.token or get_token()):
        raise WeightsError(f"{target}: nobody is logged in; set HF_TOKEN to a token with write access")


def _create(target: HubReference, api: "HfApi", private: bool) -> Listing:
    with speaking(target.repo, "write"):
        api.create_repo(target.repo, private=private or None, exist_ok=True)
    return list_model(replace(target, revision="main"), api)


def _deleted(head: Listing, contents: Mapping[str, Content]) -> tuple[str, ...]:
    """Return the files of an earlier model that must not lie beside this one."""
    return tuple(sorted(set(head.files) - set(contents)))


def _commit(target: HubReference, api: "HfApi", head: Listing, contents: Mapping[str, Content]) -> str:
    """Return the one commit that holds exactly these files of a model, beside what else the repository has."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    moved = f"{target.repo}: someone else published meanwhile; look at what is there and publish again"
    with speaking(target.repo, "write", {412: moved}):
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(name, content) for name, content in sorted(contents.items())),
            *(CommitOperationDelete(name, is_folder=False) for name in _deleted(head, contents)),
        ]
        summary = f"Model under the tag {target.revision}"
        made = api.create_commit(target.repo, operations, commit_message=summary, parent_commit=head.commit)
    return str(made.oid)


def _tag(target: HubReference, api: "HfApi", commit: str) -> None:
    taken = f"{target}: someone else made this tag meanwhile; choose another --tag"
    with speaking(str(target), "write", {409: taken}):
        api.create_tag(target.repo, tag=target.revision, revision=commit)


def _prove(target: HubReference, api: "HfApi", plan: Publication) -> None:
    """Fetch what was published as anyone would and compare it; what is not the same does not keep its tag."""
    try:
        with TemporaryDirectory(prefix="mimzoo-") as cache:
            folder = fetch(target, api=api, cache=Path(cache))
            differing = [file.name for file in plan.files if not _came_back(folder / file.name, file)]
        if differing:
            raise WeightsError(f"{target}: {' and '.join(differing)} came back from the Hub with another content")
    except BaseException as error:
        outcome = _untag(target, api)
        if not isinstance(error, MimzooError):
            raise
        raise WeightsError(f"{error}; {outcome}") from None


def _came_back(path: Path, file: PublishedFile) -> bool:
    return path.is_file() and sha256_of(path) == file.sha256


def _untag(target: HubReference, api: "HfApi") -> str:
    """Return what became of the tag that must not stay."""
    try:
        with speaking(str(target), "write"):
            api.delete_tag(target.repo, tag=target.revision)
    except MimzooError:
        return f"the tag {target.revision} could not be deleted: delete it on the repository's page"
    return f"the tag {target.revision} was deleted again"
