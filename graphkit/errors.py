"""Typed errors: one class per cause; messages name the object, what was seen, what was wanted."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GraphkitError(Exception):
    """Base of every error that graphkit raises on purpose."""


class InputError(GraphkitError, ValueError):
    """A tensor or argument given to a function, layer or model is not acceptable."""


class DatasetNotFoundError(GraphkitError, LookupError):
    """A data set is unknown, or its files are not where they were looked for."""


class CorruptFileError(GraphkitError, ValueError):
    """A data file does not hold what its name or checksum says."""


class RecipeError(GraphkitError, ValueError):
    """A recipe or an override has an unknown key or an unacceptable value."""


class CheckpointError(GraphkitError, ValueError):
    """A checkpoint or zoo folder is missing, damaged, foreign or does not fit."""


class PluginError(GraphkitError, ValueError):
    """A trainer plugin is unknown, misconfigured or in conflict with another one."""


class StorageError(GraphkitError, OSError):
    """Writing failed: the disk is full, the folder is read-only or cannot be made."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Say which of ``choices`` was probably meant, as the end of an error message.

    Args:
        word: what the user wrote.
        choices: what would have been accepted.

    Returns:
        ``"; did you mean 'x'?"``, or an empty string when nothing is close.

    Example:
        >>> nearest("ogbg-molhv", ["ogbg-molhiv", "Cora"])
        "; did you mean 'ogbg-molhiv'?"
    """
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
