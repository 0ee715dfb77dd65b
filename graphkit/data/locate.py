"""Find the raw files of a data set below the data roots, and check that they are the right ones."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from graphkit.data.cards import DatasetCard, datasets_folder
from graphkit.errors import CorruptFileError, DatasetNotFoundError
from graphkit.storage import sha256_file


@dataclass(frozen=True)
class Source:
    """Where a set was found: its folder (or archive), the root, and one checksum over its files."""

    base: Path
    root: Path
    sha256: str
    files: dict[str, str]
    exact: bool


def cache_folder() -> Path:
    """Return where downloads and parsed sets go: GRAPHKIT_CACHE or the user's cache folder."""
    chosen = os.environ.get("GRAPHKIT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("graphkit"))


def data_roots(root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Return the folders to search, in order: ``root`` alone, or GRAPHKIT_DATA and the cache."""
    if root is not None:
        return [Path(root).expanduser()]
    roots = []
    if os.environ.get("GRAPHKIT_DATA"):
        roots.append(Path(os.environ["GRAPHKIT_DATA"]).expanduser())
    return [*roots, cache_folder() / "raw"]


def _readable(size: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size = size / 1000  # type: ignore[assignment]
    return str(size)


def _raw_files(base: Path) -> dict[str, Path]:
    if base.is_file():
        return {base.name: base}
    skipped = {"processed", ".git"}
    files = {}
    for path in sorted(base.rglob("*")):
        relative = path.relative_to(base)
        if path.is_file() and not skipped.intersection(relative.parts):
            files[relative.as_posix()] = path
    return files


def find(card: DatasetCard, root: str | os.PathLike[str] | None = None) -> Source:
    """Find the files of a set, verify the checksums on its card and return one checksum for all.

    Args:
        card: which set, with the folder layouts it may have.
        root: look here only; otherwise below GRAPHKIT_DATA and the cache folder.

    Raises:
        DatasetNotFoundError: nothing there; says where it looked, how to get it, what it weighs.
        CorruptFileError: a file is truncated or is not the file that the card describes.
    """
    roots = [datasets_folder()] if card.reader == "embedded" else data_roots(root)
    looked = []
    for folder in roots:
        for layout in card.layouts:
            layout_name, _, needed = layout.partition("|")
            base = folder / layout_name
            looked.append(str(base / needed) if needed else str(base))
            if (base / needed if needed else base).exists():
                return _verify(card, base, folder)
    where = "\n  ".join(dict.fromkeys(looked))
    raise DatasetNotFoundError(
        f"dataset {card.name!r} is not here. Looked for:\n  {where}\n"
        f"It weighs {_readable(card.size_bytes)}. How to get it: {card.how_to_get}\n"
        "Put it below a folder named by GRAPHKIT_DATA, or pass root="
    )


def _verify(card: DatasetCard, base: Path, root: Path) -> Source:
    files = _raw_files(base)
    found: dict[str, str] = {}
    exact = True
    for name, path in files.items():
        digest = sha256_file(path)
        found[name] = digest
        wanted = card.sha256.get(name)
        if wanted is None or wanted == digest:
            continue
        size = path.stat().st_size
        if card.official_size.get(name) == size:
            exact = False
            continue
        if card.split_kind == "rebuilt":
            # The card's checksums are those of a rebuilt copy; another copy may well be the
            # official one, but nothing here can tell.
            exact = False
            continue
        raise CorruptFileError(
            f"{path}: SHA-256 is {digest[:16]}..., the card of {card.name} wants {wanted[:16]}... "
            f"(size {size} bytes): truncated, damaged or another version; "
            f"get it again: {card.how_to_get}"
        )
    missing = [name for name in card.sha256 if name not in files and not name.startswith("?")]
    if missing and base.is_dir():
        raise DatasetNotFoundError(
            f"dataset {card.name!r}: {base} lacks {', '.join(missing[:4])}; "
            f"how to get it: {card.how_to_get}"
        )
    combined = hashlib.sha256(
        "\n".join(f"{found[name]}  {name}" for name in sorted(found)).encode()
    )
    return Source(base, root, combined.hexdigest(), found, exact)
