"""The folder of a run, ``runs/<dataset>/<model>/<seed>/``: who may write, what is finished."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from graphkit.errors import GraphkitError, RecipeError, StorageError
from graphkit.recipes.reading import read_yaml
from graphkit.recipes.schema import Recipe
from graphkit.results.record import SeedResult, read_json
from graphkit.storage import atomic_write_text

SEED_FORMAT = "graphkit-seed/1"
_OWN_FILES = (
    "config.yaml", "metrics.jsonl", "seconds.jsonl", "result.json", "curves.png",
    "degrees.json", "degrees.png", "models.png", "checkpoints", ".lock",
)  # fmt: skip


class RunFolder:
    """One recipe's runs over seeds on the disk.

    Args:
        runs: the folder of all runs.
        recipe: overrides applied.
        overrides: the texts that were applied, recorded beside the resolved settings.
    """

    def __init__(self, runs: str | Path, recipe: Recipe, overrides: list[str]) -> None:
        dataset, _, model = recipe.name.partition("/")
        self.runs = Path(runs)
        self.path = self.runs / dataset / model
        self.recipe = recipe
        self.overrides = overrides

    def seed_path(self, seed: int) -> Path:
        return self.path / str(seed)

    @property
    def record_path(self) -> Path:
        return self.path / "result.json"

    @contextmanager
    def claimed(self, *, restart: bool = False) -> Iterator[None]:
        """Hold the folder for this process and this recipe.

        Args:
            restart: throw away what an earlier run with other settings left.

        Raises:
            RecipeError: the folder holds runs with other settings.
            StorageError: it cannot be written, or another process is at work in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"run folder {self.path}: cannot be made: {error.strerror}; "
                "choose another with --runs"
            ) from None
        lock = FileLock(str(self.path / ".lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise StorageError(
                f"run folder {self.path}: another graphkit run is at work in it; wait for it, or "
                "choose another folder with --runs"
            ) from None
        except OSError as error:
            raise StorageError(
                f"run folder {self.path}: cannot be written: {error.strerror}; "
                "choose another with --runs"
            ) from None
        try:
            if restart:
                self._clear()
            self._adopt_config()
            yield
        finally:
            lock.release()

    def _adopt_config(self) -> None:
        path = self.path / "config.yaml"
        if path.exists():
            found = read_yaml(path)
            if found.get("recipe_hash") != self.recipe.hash:
                raise RecipeError(
                    f"{self.path} holds runs with other settings"
                    f"{_difference(found.get('recipe'), self.recipe.deciding())}. "
                    "Repeat the command that made it, start over with --restart, or write "
                    "elsewhere with --runs"
                )
        self.write_config(path)

    def write_config(self, path: Path, seed: int | None = None) -> None:
        """Write the resolved settings of the run, overrides applied."""
        content: dict[str, Any] = {
            "name": self.recipe.name,
            "recipe_hash": self.recipe.hash,
            "overrides": self.overrides,
            "recipe": self.recipe.deciding(),
        }
        if seed is not None:
            content["seed"] = seed
        atomic_write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def _clear(self) -> None:
        # Only what a run writes is removed, and only where a run has been: a wrong --runs must
        # not cost anybody their own files.
        if not (self.path / "config.yaml").exists():
            return
        for folder in [*self._seed_folders(), self.path]:
            for name in _OWN_FILES:
                target = folder / name
                if name == ".lock":
                    continue
                if target.is_dir() and not target.is_symlink():
                    shutil.rmtree(target)
                else:
                    target.unlink(missing_ok=True)

    def _seed_folders(self) -> list[Path]:
        return [p for p in self.path.iterdir() if p.is_dir() and p.name.isdecimal()]

    def finished(self, seed: int) -> SeedResult | None:
        """Return the result of a seed that ran to its end with these settings, else None."""
        path = self.seed_path(seed) / "result.json"
        if not path.exists():
            return None
        try:
            content = read_json(path)
            if content.get("format") != SEED_FORMAT or content["recipe_hash"] != self.recipe.hash:
                return None
            return SeedResult.model_validate(content["result"])
        except (GraphkitError, KeyError, ValueError):
            # Results are written in one step, so a damaged one was damaged later: run it again.
            return None


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    changes = [
        f"{key}: {_short(before)} there, {_short(now)} asked for"
        for key, before, now in _leaves(found, wanted, "")
    ]
    if not changes:
        return ""
    more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
    return f" ({'; '.join(changes[:3])}{more})"


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _leaves(a: Any, b: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for name in dict.fromkeys([*a, *b]):
            yield from _leaves(a.get(name), b.get(name), f"{key}.{name}" if key else str(name))
    elif a != b:
        yield key, a, b
