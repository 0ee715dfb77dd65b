"""Load a model from a folder or from a model hub; send one there."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from graphkit.errors import CheckpointError
from graphkit.zoo.checkpoint import load_config, read_model
from graphkit.zoo.config import CARD, CONFIG, WEIGHTS

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def from_pretrained(
    name_or_path: str | os.PathLike[str], *, revision: str | None = None
) -> torch.nn.Module:
    """Load a model, in evaluation mode, from a zoo folder or a hub repository.

    Nothing in the files is executed: weights are safetensors, the rest is JSON, and both are
    checked against the model before a weight is read.

    Args:
        name_or_path: a folder, or ``org/name`` on the hub (``HF_HUB_OFFLINE=1`` keeps to what was
            downloaded before).
        revision: branch, tag or commit on the hub; pin one for results that must not move.

    Raises:
        CheckpointError: nothing is there, or the files are damaged, foreign or do not fit.

    Example:
        >>> from graphkit import zoo
        >>> model = zoo.from_pretrained("my-folder")  # doctest: +SKIP
    """
    path = Path(name_or_path)
    if path.exists() or not _HUB_ID.fullmatch(str(name_or_path)):
        load_config(path)
        return read_model(path / CONFIG, path / WEIGHTS)
    config, weights = (_download(str(name_or_path), f, revision) for f in (CONFIG, WEIGHTS))
    return read_model(config, weights)


def _download(repository: str, filename: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise CheckpointError(
            f"{repository!r} is not a folder here, and a hub needs: pip install huggingface_hub"
        ) from None
    try:
        found = hf_hub_download(repository, filename, revision=revision)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{repository!r}: no such folder here, and {filename} could not be had from the hub: "
            f"{reason}"
        ) from None
    # The hub's cache links to files named by their hash; the link is its own, not a stranger's.
    return Path(os.path.realpath(found))


def push_to_hub(folder: str | os.PathLike[str], repository: str, *, private: bool = False) -> str:
    """Upload a zoo folder to the hub with the user's own login and return the commit's address.

    Args:
        folder: written by :func:`save_pretrained`; loaded once to be sure that it is whole.
        repository: ``org/name``.
        private: who may see a repository that does not exist yet.

    Raises:
        CheckpointError: the folder is not whole, or the name is not ``org/name``.
    """
    if not _HUB_ID.fullmatch(repository):
        raise CheckpointError(f"repository: got {repository!r}, wanted org/name")
    from_pretrained(Path(folder).resolve())
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    done = api.upload_folder(
        repo_id=repository, folder_path=str(folder), allow_patterns=[CARD, CONFIG, WEIGHTS]
    )
    return str(done.commit_url)
