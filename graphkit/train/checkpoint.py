"""Training checkpoints: one generation of files at a time, replaced as a whole, never unpickled."""

from __future__ import annotations

import glob
import io
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from graphkit.errors import CheckpointError, StorageError
from graphkit.storage import atomic_path, atomic_write_bytes, atomic_write_text, sha256_file
from graphkit.train.world import World

FORMAT = 1
_SUMS = "SHA256SUMS"
_ADVICE = (
    "the run cannot be continued from it: restore the folder from a copy, or delete {folder} to "
    "start this run anew"
)


class CheckpointFolder:
    """``<run_dir>/checkpoints``: the files ``last/shared.pt`` and ``last/rank_<k>.pt``.

    ``last/SHA256SUMS`` holds their checksums, because the container that torch writes lets a
    flipped bit in a weight pass. A generation is written to ``next`` and becomes ``last`` by a
    rename, so at every moment one complete generation is on the disk. Files are read with
    ``weights_only=True``.

    Args:
        run_dir: folder of the run.
        world: the workers; each one writes its own rank file.
    """

    def __init__(self, run_dir: Path, world: World) -> None:
        self.folder = run_dir / "checkpoints"
        self.world = world

    @property
    def best_path(self) -> Path:
        """Weights of the best epoch so far, as safetensors."""
        return self.folder / "best.safetensors"

    def probe(self, size: int) -> None:
        """Fail now rather than after hours: check that ``size`` bytes can be written.

        Raises:
            StorageError: the folder cannot be made or written, or the disk is too full.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise StorageError(
                f"run_dir: cannot use {self.folder}: {error.strerror or error}; choose a folder "
                "that can be written"
            ) from error
        if free < size:
            raise StorageError(
                f"run_dir: checkpoints need about {size / 2**20:.1f} MiB but the disk of "
                f"{self.folder} has {free / 2**20:.1f} MiB left; free space or choose another disk"
            )
        probe = self.folder / f".probe-{self.world.rank}"
        try:
            with atomic_path(probe) as temporary:
                temporary.write_bytes(bytes(min(size, 64 << 20)))
        finally:
            probe.unlink(missing_ok=True)

    def save(self, shared: dict[str, Any], rank: dict[str, Any]) -> None:
        """Replace the generation on the disk by this one.

        Raises:
            StorageError: writing failed; the generation saved before is untouched.
        """
        upcoming = self.folder / "next"
        generation = int(shared["step"])
        try:
            if self.world.rank == 0:
                shutil.rmtree(upcoming, ignore_errors=True)
                upcoming.mkdir(parents=True)
            self.world.barrier()
            head = {"format": FORMAT, "generation": generation, "world_size": self.world.size}
            _write(upcoming / f"rank_{self.world.rank}.pt", {**head, **rank})
            self.world.barrier()
            if self.world.rank == 0:
                _write(upcoming / "shared.pt", {**head, **shared})
                seal(upcoming)
                self._make_last(upcoming)
            self.world.barrier()
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(
                f"cannot write the checkpoint in {upcoming}: {error.strerror or error}; the one "
                "saved before is untouched. Free space, then run the same command again"
            ) from error

    def _make_last(self, upcoming: Path) -> None:
        last, previous = self.folder / "last", self.folder / "previous"
        shutil.rmtree(previous, ignore_errors=True)
        if last.exists():
            os.rename(last, previous)
        os.rename(upcoming, last)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        shutil.rmtree(previous, ignore_errors=True)

    def _finish_rename(self) -> None:
        """Make ``last`` of what a crash between two renames left, before anything is deleted."""
        last = self.folder / "last"
        if self.world.rank == 0 and not last.exists():
            for name in ("next", "previous"):
                if (self.folder / name / _SUMS).is_file():
                    os.rename(self.folder / name, last)
                    break
        if self.world.rank == 0:
            # Temporary files of writes that a kill cut off; this run owns the folder.
            for pattern in (".best.safetensors.*", ".probe-*", "../.metrics.jsonl.*"):
                for leftover in glob.glob(os.path.join(glob.escape(str(self.folder)), pattern)):
                    os.unlink(leftover)
        self.world.barrier()

    def load(self) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
        """Return the shared state and this rank's state (``None`` if it had no file), or ``None``.

        Raises:
            CheckpointError: a file is missing, damaged, foreign, or of another generation.
        """
        self._finish_rename()
        folder = self.folder / "last"
        if not folder.exists():
            return None
        shared = _read(folder / "shared.pt", self.folder)
        own = folder / f"rank_{self.world.rank}.pt"
        if self.world.rank >= int(shared["world_size"]):
            return shared, None
        rank = _read(own, self.folder)
        if rank["generation"] != shared["generation"]:
            raise CheckpointError(
                f"{own}: belongs to step {rank['generation']} but shared.pt beside it to step "
                f"{shared['generation']}; " + _ADVICE.format(folder=self.folder)
            )
        return shared, rank

    def other_ranks(self, shared: dict[str, Any]) -> list[dict[str, Any]]:
        """Read the rank files of all workers of the run that wrote the checkpoint."""
        size = int(shared["world_size"])
        last = self.folder / "last"
        return [_read(last / f"rank_{rank}.pt", self.folder) for rank in range(size)]


def seal(folder: Path) -> None:
    """Write the checksums of a generation; done last, so a sealed folder is a complete one."""
    names = sorted(path.name for path in folder.glob("*.pt"))
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in names]
    atomic_write_text(folder / _SUMS, "".join(lines))


def _sum_of(path: Path) -> str | None:
    try:
        lines = (path.parent / _SUMS).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    return next((line[:64] for line in lines if line[64:].strip() == path.name), None)


def _write(path: Path, state: dict[str, Any]) -> None:
    # Through memory: torch.save into a file reports a full disk as a RuntimeError without a cause.
    stream = io.BytesIO()
    torch.save(state, stream)
    atomic_write_bytes(path, stream.getvalue())


def _read(path: Path, folder: Path) -> dict[str, Any]:
    advice = _ADVICE.format(folder=folder)
    if not path.is_file():
        raise CheckpointError(f"{path}: this file of the checkpoint is missing; {advice}")
    if _sum_of(path) != sha256_file(path):
        raise CheckpointError(f"{path}: damaged, its checksum is not that of {_SUMS}; {advice}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen unrelated types for damaged files
        cause = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({cause}); {advice}") from None
    keys = ("format", "generation", "world_size")
    if not isinstance(state, dict) or not all(isinstance(state.get(key), int) for key in keys):
        raise CheckpointError(f"{path}: not a graphkit training checkpoint; {advice}")
    if state["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: has format {state['format']}, this version reads {FORMAT}; {advice}"
        )
    return state
