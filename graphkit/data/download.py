"""Fetch an archive named on a card: https, known checksum, never when offline, never a question."""

from __future__ import annotations

import os
from pathlib import Path

from graphkit.data.archives import extract
from graphkit.data.cards import DatasetCard
from graphkit.data.locate import cache_folder
from graphkit.errors import CorruptFileError, DatasetNotFoundError


def offline() -> bool:
    """Whether GRAPHKIT_OFFLINE forbids every attempt to use the network."""
    return os.environ.get("GRAPHKIT_OFFLINE", "0").lower() not in ("", "0", "false", "no")


def fetch(card: DatasetCard) -> Path:
    """Download and unpack the archive of a card below the cache folder.

    Raises:
        DatasetNotFoundError: the card has no address, the network is forbidden or fails.
        CorruptFileError: what came has another checksum, or the archive is unsafe.
    """
    if card.download is None:
        raise DatasetNotFoundError(
            f"{card.name}: no address with a checksum is known, so nothing is downloaded. "
            f"How to get it: {card.how_to_get}"
        )
    if offline():
        raise DatasetNotFoundError(
            f"{card.name}: not here, and GRAPHKIT_OFFLINE forbids downloads. "
            f"How to get it: {card.how_to_get}"
        )
    import pooch

    root = cache_folder() / "raw"
    try:
        archive = pooch.retrieve(
            card.download.url,
            known_hash=f"sha256:{card.download.sha256}",
            path=cache_folder() / "downloads",
        )
    except ValueError as error:
        raise CorruptFileError(f"{card.name}: {error}") from error
    except Exception as error:
        # Requests, urllib and OS errors share no base; all mean that the file did not come.
        raise DatasetNotFoundError(
            f"{card.name}: {card.download.url} could not be fetched ({error}). "
            f"How to get it by hand: {card.how_to_get}"
        ) from error
    extract(Path(archive), root / card.download.folder)
    return root
