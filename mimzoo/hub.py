"""Cards and weights on the Hugging Face Hub, fetched at a named revision; never needs torch."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from mimzoo.blocks import Artefact
from mimzoo.cards import Card, find_card, read_card
from mimzoo.errors import UnknownNameError, WeightsError

SCHEME = "hf://"
REFERENCE = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[\w./-]+)")
FILES = ("README.md", "model.safetensors", "pretraining.safetensors", "model.onnx", "metrics.json")


@dataclass(frozen=True)
class HubReference:
    """A repository on the Hub at a revision (a tag, branch or commit)."""

    repo: str
    revision: str


def parse_reference(text: str) -> HubReference:
    """Return the repository and revision of `hf://org/name@revision`.

    Raises UnknownNameError with the right spelling; the revision is required, so that a name means one content.
    """
    match = REFERENCE.fullmatch(text)
    if match is None:
        raise UnknownNameError(f"{text!r} is no Hub reference; write hf://org/name@tag, such as hf://org/model@v1")
    return HubReference(match["repo"], match["revision"])


def fetch(reference: HubReference, *, local_files_only: bool = False) -> Path:
    """Return the local folder of a repository's model files at a revision, downloaded once into the Hub's cache.

    Raises UnknownNameError when the repository or revision is not there, WeightsError when the Hub cannot be reached
    and the files are not cached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    where = f"{SCHEME}{reference.repo}@{reference.revision}"
    try:
        folder = HfApi(library_name="mimzoo").snapshot_download(
            reference.repo,
            revision=reference.revision,
            allow_patterns=[*FILES, "*.png"],
            local_files_only=local_files_only,
        )
    except LocalEntryNotFoundError:
        raise WeightsError(f"{where} is not in the local cache and the Hub cannot be reached; go online once") from None
    except RepositoryNotFoundError:
        raise UnknownNameError(
            f"{where}: no such repository, or no right to read it; check the name and HF_TOKEN"
        ) from None
    except HfHubHTTPError as error:
        raise WeightsError(f"{where}: the Hub answers {error.response.status_code}; try again later") from None
    return Path(folder)


def find_model(reference: str | Path, *, local_files_only: bool = False) -> Card:
    """Return the card of a model with its files at hand as far as they exist.

    Takes a bare name, a folder, or `hf://org/name@revision`; weights named by the card but not beside it come from
    the Hub repository and tag that the card states.
    """
    if isinstance(reference, str) and reference.startswith(SCHEME):
        hub = parse_reference(reference)
        return replace(read_card(fetch(hub)), name=hub.repo.split("/")[1])
    card = find_card(reference)
    published = card.block.weights
    if published is not None and card.file("model.safetensors") is None and published.repo and published.tag:
        return replace(card, folder=_fetch_artefact(published))
    return card


def _fetch_artefact(artefact: Artefact) -> Path:
    return fetch(HubReference(str(artefact.repo), str(artefact.tag)))
