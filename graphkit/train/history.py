"""``metrics.jsonl``: one line of figures per epoch, always in step with the checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from graphkit.errors import StorageError
from graphkit.storage import atomic_write_text


class MetricsFile:
    """Appends epochs to ``<run_dir>/metrics.jsonl``; rewritten from the checkpoint on resume.

    Args:
        path: the file, or ``None`` to write nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def rewrite(self, history: list[dict[str, Any]]) -> None:
        """Make the file hold exactly ``history``: lines after the checkpoint disappear."""
        if self.path is None:
            return
        text = "".join(json.dumps(entry) + "\n" for entry in history)
        if not self.path.is_file() or self.path.read_bytes() != text.encode():
            atomic_write_text(self.path, text)

    def keep(self, epochs: int) -> None:
        """Forget the lines after so many epochs, whatever figures the others hold."""
        if self.path is None or not self.path.is_file():
            return
        kept = []
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                entry = json.loads(line)
            except ValueError:  # torn by a kill
                break
            if not isinstance(entry, dict) or entry.get("epoch", 0) > epochs:
                break
            kept.append(line)
        atomic_write_text(self.path, b"".join(kept).decode())

    def append(self, entry: dict[str, Any]) -> None:
        """Add one epoch.

        Raises:
            StorageError: the disk is full or the folder has become read-only.
        """
        if self.path is None:
            return
        try:
            with open(self.path, "ab") as stream:
                stream.write((json.dumps(entry) + "\n").encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path}: {error.strerror or error}; the last checkpoint is "
                "intact. Free space, then run the same command again"
            ) from error
