"""Speaking with the Hugging Face Hub: one client, a little patience, and one sentence for all that goes wrong."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from mimzoo import __version__
from mimzoo.errors import MimzooError, UnknownNameError, WeightsError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Answer = TypeVar("Answer")
# Seconds before a Hub that answers with an error of its own (5xx) is asked again
PAUSES = (0.5, 1.0, 2.0)


def hub_api() -> "HfApi":
    """Return the client of the Hub at `HF_ENDPOINT`, by default huggingface.co; its token is `HF_TOKEN`'s."""
    from huggingface_hub import HfApi

    # The client's own default was frozen when it was imported.
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    return HfApi(endpoint=endpoint, library_name="mimzoo", library_version=__version__)


def patiently(call: Callable[[], Answer]) -> Answer:
    """Return what `call` returns, which is repeated after each pause while the Hub answers with 5xx."""
    from huggingface_hub.errors import HfHubHTTPError

    for pause in PAUSES:
        try:
            return call()
        except HfHubHTTPError as error:
            if error.response.status_code < 500:
                raise
        time.sleep(pause)
    return call()


@contextmanager
def speaking(
    where: str, right: str = "read", answers: Mapping[int, str] | None = None, home: str = "HF_HOME"
) -> Iterator[None]:
    """Raise a MimzooError of one sentence about `where` for what the Hub's client raises inside the block.

    `right` is the access that the token needs, `answers` are sentences for answers (HTTP status) that mean something
    here, `home` the variable that moves the files to another disk.
    UnknownNameError for what is not there, WeightsError for what cannot be reached, written or believed.
    """
    from huggingface_hub.errors import XetDownloadError

    http = _http()
    # Of the last four are answers in which the client does not find what a Hub would send.
    foreseen = (
        http.HTTPError,
        http.InvalidURL,
        XetDownloadError,
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
    )
    try:
        with _quiet():
            yield
    except foreseen as error:
        # The client wraps what fails in one of its upload threads.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        raise _explain(cause, where, right, answers or {}, home) from None


def _http() -> Any:
    """Return the HTTP library that the client speaks with: it passes on what that raises."""
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined] # the name is made when it is asked for

    return httpx


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the client from reporting each attempt, unless HF_HUB_VERBOSITY asks for it: the outcome says enough."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    if "HF_HUB_VERBOSITY" not in os.environ:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _explain(error: BaseException, where: str, right: str, answers: Mapping[int, str], home: str) -> MimzooError:
    from huggingface_hub.errors import (
        FileMetadataError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    http = _http()
    if isinstance(error, HfHubHTTPError):
        return _answered(error, where, right, answers)
    if isinstance(error, OfflineModeIsEnabled):
        return WeightsError(f"{where} cannot be reached while HF_HUB_OFFLINE is set; unset it to go online")
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HfHubHTTPError):
        return _answered(error.__cause__, where, right, answers)
    if isinstance(error, http.TimeoutException) or isinstance(error.__cause__, http.TimeoutException):
        return WeightsError(f"{where}: the Hub did not answer in time; try again, or raise HF_HUB_ETAG_TIMEOUT")
    if isinstance(error, (http.HTTPError, http.InvalidURL, LocalEntryNotFoundError)):
        return WeightsError(f"{where}: the Hub cannot be reached; check the network and HF_ENDPOINT ({_line(error)})")
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileMetadataError):
        place = "".join(f": {path}" for path in (error.filename2 or error.filename,) if path)
        return WeightsError(f"{where}: {error.strerror}{place}; free space, or let {home} name another folder")
    if isinstance(error, HFValidationError):
        return UnknownNameError(f"{where} cannot be a repository of the Hub ({_line(error)})")
    if type(error) is ValueError:
        return WeightsError(f"{where}: the Hub takes no such thing ({_line(error)})")
    return WeightsError(f"{where}: nothing sound came from the Hub ({_line(error)}); try again, and check HF_ENDPOINT")


def _answered(error: BaseException, where: str, right: str, answers: Mapping[int, str]) -> MimzooError:
    """Return the sentence for an answer of the Hub that is an error."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RemoteEntryNotFoundError, RepositoryNotFoundError

    assert isinstance(error, HfHubHTTPError)
    status = error.response.status_code
    if status in answers:
        return WeightsError(answers[status])
    if isinstance(error, GatedRepoError):
        return UnknownNameError(f"{where} is given out on request; ask for it on its page and set HF_TOKEN")
    if isinstance(error, RepositoryNotFoundError) and right == "read":
        return UnknownNameError(f"{where}: no such repository, or no right to read it; check the name and HF_TOKEN")
    if isinstance(error, RemoteEntryNotFoundError):
        return UnknownNameError(f"{where}: there is nothing at {error.response.url}; ask who published it")
    if status in {401, 403}:
        return WeightsError(f"{where}: the Hub gives no right to do this ({status}); set HF_TOKEN with {right} access")
    said = f" ({' '.join(error.server_message.split())[:200]})" if error.server_message else ""
    return WeightsError(f"{where}: the Hub answers {status}{said}; try again later")


def _line(error: BaseException) -> str:
    said = str(error).strip()
    # What the client says of its own accord goes on over several lines, of which all are needed.
    return " ".join((said if type(error) is ValueError else said.partition("\n")[0]).split()) or type(error).__name__
