"""Files of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from atp_core.errors import ModelError
from atp_core.loading import first_line

__all__ = ["hub_file"]


def hub_file(repository: str, name: str, revision: str | None) -> Path:
    """A file of a repository, downloaded if it is not in the local cache.

    Raises:
        ModelError: the hub or the repository cannot be reached, or has no such file.
    """
    unreachable = (
        f"{name} of {repository} cannot be had from the Hugging Face hub: {{}} Check the name and "
        "the network, or give a local directory"
    )
    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except LocalEntryNotFoundError as error:  # before its parent: it means "offline"
        raise ModelError(unreachable.format(first_line(error))) from error
    except EntryNotFoundError as error:
        raise ModelError(
            f"{repository} on the Hugging Face hub has no {name}; where its weights are a pickle, "
            "which can run code when loaded and is refused, convert them once to safetensors"
        ) from error
    except Exception as error:
        raise ModelError(unreachable.format(first_line(error))) from error
