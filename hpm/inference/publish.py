"""`hpm export --push`: an exported folder becomes a repository of the Hugging Face Hub.

By `upload_folder` of huggingface_hub, so that what arrives is the folder. timm's `push_to_hf_hub` takes a model
instead, and writes a configuration of its own, a pickle beside the weights, and a card that says Apache-2.0 whatever
the weights' license is.

The Hub is the one that HF_ENDPOINT names; the token is that of HF_TOKEN or `hf auth login`, and nothing here sees it.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from rich.console import Console

from hpm import __version__
from hpm.errors import UserError
from hpm.tracking.redact import redact_text

_NAME = re.compile(r"[^/\s]+/[^/\s]+")
_LONGEST = 300  # letters of somebody else's message


def check_repository(name: str) -> None:
    """Find out before the work whether something can be pushed to a repository, as far as that is known here.

    Args:
        name: "OWNER/NAME".

    Raises:
        UserError: for a name that no repository has, or where there is no token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not _NAME.fullmatch(name):
        raise UserError(f"--push {name} must be OWNER/NAME, an account or organization of yours and a repository")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"--push {name} cannot be a repository's name: {_sentence(error)}") from error
    if get_token() is None:
        raise UserError(
            f"--push {name} needs a token of the Hugging Face Hub that may write: run `hf auth login`, or set HF_TOKEN"
        )


def push(folder: Path, repository: str, console: Console, *, private: bool, message: str) -> None:
    """Upload a folder as the newest commit of a repository, which is made where there is none.

    Args:
        folder: what `hpm export --format timm` wrote; stays as it is, whatever happens.
        repository: "OWNER/NAME".
        console: where a person reads.
        private: whether nobody else may see it.
        message: of the commit.

    Raises:
        UserError: where that fails, naming the command that tries it again.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    if not console.is_terminal:
        disable_progress_bars()
    api = HfApi(library_name="curriculum-masking", library_version=__version__)
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        shown = private and not api.repo_info(repository).private
        if not shown:
            commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    except Exception as error:  # of huggingface_hub, of its HTTP client, or of hf_xet, whichever they are
        raise UserError(f"{_reason(error, repository, api.endpoint)}; {_again(folder, repository, private)}") from error
    if shown:
        raise UserError(
            f"--private: {repository} is there already and everybody sees it, so nothing was uploaded; make it private "
            f"on the Hub first, or choose another name. The exported folder stays: {folder}"
        )
    console.print(f"pushed: {redact_text(str(commit.commit_url))}")
    console.print(f"timm.create_model('hf-hub:{repository}', pretrained=True, num_classes=N)")


def _reason(error: Exception, repository: str, endpoint: str) -> str:
    """Why nothing was uploaded, in a sentence."""
    from huggingface_hub.errors import HfHubHTTPError

    hub = redact_text(endpoint)
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if status == 401:
        return (
            f"--push {repository}: {hub} does not accept the token; run `hf auth login` again, or set another HF_TOKEN"
        )
    if status == 403:
        return (
            f"--push {repository}: the token may not write there; choose an OWNER of yours, or a token with the "
            "permission to write"
        )
    if status is not None:
        return f"--push {repository}: {hub} answers {status}: {_sentence(error)}"
    return f"--push {repository}: no upload to {hub}: {_sentence(error)}"


def _again(folder: Path, repository: str, private: bool) -> str:
    """What remains, and what to do about it; `hf upload --private` would fill a repository that everybody sees."""
    if private:
        return f"the exported folder stays: {folder}; the same command with another --out tries it again"
    return f"the exported folder stays: `hf upload {repository} {shlex.quote(str(folder))}` pushes it"


def _sentence(error: Exception) -> str:
    """What an error says, in one line and without secrets."""
    text = redact_text(" ".join(str(error).split())) or type(error).__name__
    return text[:_LONGEST].rstrip(" .")
