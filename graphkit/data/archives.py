"""Open zip and tar archives of unknown origin: nothing is written outside the target, nothing grows
beyond limits, and links and devices are refused."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from graphkit.errors import CorruptFileError
from graphkit.storage import atomic_path

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What an archive may hold at most.

    Attributes:
        members: number of files.
        total_bytes: bytes of all files unpacked.
        ratio: unpacked over packed size, above the first 10 MB.
    """

    members: int = 5000
    total_bytes: int = 200 * 10**9
    ratio: float = 400.0


def _safe_name(archive: Path, name: str, seen: set[str]) -> str:
    """The member's path, made relative; refuses everything that could leave the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    drive = len(name) > 1 and name[1] == ":"
    if path.is_absolute() or ".." in path.parts or drive or "\0" in name or not path.parts:
        raise CorruptFileError(f"{archive}: member {name!r} points outside the archive; refused")
    key = str(path).casefold()
    if key in seen:
        raise CorruptFileError(
            f"{archive}: member {name!r} occurs twice (letter case aside); refused"
        )
    seen.add(key)
    return str(path)


def _zip_members(archive: Path, limits: Limits) -> Iterator[tuple[str, int, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        infos = opened.infolist()
        if len(infos) > limits.members:
            raise CorruptFileError(
                f"{archive}: has {len(infos)} members, at most {limits.members} are read"
            )
        seen: set[str] = set()
        for info in infos:
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise CorruptFileError(
                    f"{archive}: member {info.filename!r} is a link or device; refused"
                )
            name = _safe_name(archive, info.filename, seen)
            if not info.is_dir():
                with opened.open(info) as stream:
                    yield name, info.file_size, stream


def _tar_members(archive: Path, limits: Limits) -> Iterator[tuple[str, int, IO[bytes]]]:
    with tarfile.open(archive) as opened:
        seen: set[str] = set()
        for number, info in enumerate(opened):
            if number >= limits.members:
                raise CorruptFileError(f"{archive}: has more than {limits.members} members")
            if not (info.isreg() or info.isdir()):
                raise CorruptFileError(
                    f"{archive}: member {info.name!r} is a link or device; refused"
                )
            name = _safe_name(archive, info.name, seen)
            stream = opened.extractfile(info)
            if stream is not None:
                yield name, info.size, stream


def _blocks(archive: Path, limits: Limits) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Members with their content in blocks; sizes are counted as they come, not as declared."""
    packed = max(archive.stat().st_size, 1)
    total = 0

    def _count(name: str, stream: IO[bytes]) -> Iterator[bytes]:
        nonlocal total
        while block := stream.read(_BLOCK):
            total += len(block)
            if total > limits.total_bytes:
                raise CorruptFileError(
                    f"{archive}: unpacks to more than {limits.total_bytes} bytes"
                )
            if total > 10**7 and total / packed > limits.ratio:
                raise CorruptFileError(
                    f"{archive}: member {name!r} unpacks to more than {limits.ratio:.0f} times the "
                    "size of the archive; refused"
                )
            yield block

    members = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    for name, _, stream in members(archive, limits):
        yield name, _count(name, stream)


def read_members(archive: Path, limits: Limits | None = None) -> dict[str, bytes]:
    """Return the files of a zip or tar archive by name, without writing to the disk.

    Raises:
        CorruptFileError: not an archive, damaged, unsafe names or links, or beyond the limits.
    """
    try:
        return {name: b"".join(blocks) for name, blocks in _blocks(archive, limits or Limits())}
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, OSError) as error:
        raise CorruptFileError(f"{archive}: not a readable archive ({error})") from error
    except Exception as error:
        if isinstance(error, CorruptFileError):
            raise
        # zlib.error and friends: damaged compressed data.
        raise CorruptFileError(f"{archive}: damaged ({type(error).__name__}: {error})") from error


def extract(archive: Path, folder: Path, limits: Limits | None = None) -> list[Path]:
    """Unpack a zip or tar archive below ``folder``; each file appears whole or not at all.

    Raises:
        CorruptFileError: not an archive, damaged, unsafe names or links, or beyond the limits.
        StorageError: the folder cannot be written.
    """
    written = []
    root = folder.resolve()
    try:
        for name, blocks in _blocks(archive, limits or Limits()):
            target = root / name
            if not target.resolve().is_relative_to(root):
                raise CorruptFileError(
                    f"{archive}: member {name!r} would be written outside {root}"
                )
            with atomic_path(target) as temporary, open(temporary, "wb") as stream:
                for block in blocks:
                    stream.write(block)
            written.append(target)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError) as error:
        raise CorruptFileError(f"{archive}: not a readable archive ({error})") from error
    return written
