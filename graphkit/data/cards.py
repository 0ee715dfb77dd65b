"""Dataset cards: what a set is, where it comes from, what it weighs and how it is judged."""

from __future__ import annotations

import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from graphkit.errors import CorruptFileError, DatasetNotFoundError, nearest

Level = Literal["graph", "node", "link", "recommendation"]
TaskType = Literal[
    "binary", "multilabel", "multiclass", "regression", "link", "subtoken", "ranking"
]


class Download(BaseModel):
    """One archive that can be fetched; there is no download without a checksum."""

    model_config = ConfigDict(extra="forbid")
    url: str = Field(pattern=r"^https://")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int
    folder: str = ""


class DatasetCard(BaseModel):
    """Everything known about one data set; read from ``datasets/<name>.yaml``.

    ``statistics`` and ``split_sizes`` were counted on the loaded set; ``published`` holds figures
    quoted from the source. A ``protocol`` split is random, drawn as the publications draw theirs:
    figures can be compared. ``mean_edges`` counts directed edges, as ``edge_index`` stores them.
    """

    model_config = ConfigDict(extra="forbid")
    name: str
    title: str
    source: list[str]
    licence: str
    citation: str
    level: Level
    task: TaskType
    num_tasks: int
    metric: str
    also: list[str] = Field(default_factory=list)  # figures reported beside the metric
    maximize: bool
    split: str
    split_kind: Literal["official", "protocol", "rebuilt", "stand-in", "random"] = "official"
    data_kind: Literal["official", "rebuilt", "generated"] = "official"
    std_kind: Literal["unbiased", "population"] = "unbiased"
    reader: str
    options: dict[str, Any] = Field(default_factory=dict)
    layouts: list[str] = Field(default_factory=list)
    sha256: dict[str, str] = Field(default_factory=dict)
    official_size: dict[str, int] = Field(default_factory=dict)
    size_bytes: int
    statistics: dict[str, float] = Field(default_factory=dict)
    split_sizes: dict[str, int] = Field(default_factory=dict)
    published: dict[str, float] = Field(default_factory=dict)
    how_to_get: str
    download: Download | None = None
    notes: str = ""


@lru_cache(maxsize=1)
def datasets_folder() -> Path:
    """Return the folder with cards and embedded sets: in the wheel, or in the source checkout.

    Raises:
        DatasetNotFoundError: neither place holds cards (a damaged installation).
    """
    package = Path(__file__).resolve().parent.parent
    places = [package / "_datasets", package.parent / "datasets"]
    for place in places:
        if (place / "demo.yaml").is_file():
            return place
    looked = " and ".join(str(place) for place in places)
    raise DatasetNotFoundError(f"no dataset cards in {looked}; reinstall graphkit")


def _canonical(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def names(pattern: str = "*") -> list[str]:
    """List the names of all known data sets that match a shell pattern.

    Example:
        >>> "demo" in names("demo*")
        True
    """
    found = sorted(path.stem for path in datasets_folder().glob("*.yaml"))
    return [name for name in found if fnmatch.fnmatchcase(name, pattern.lower())]


@lru_cache(maxsize=256)
def _read(path: Path) -> DatasetCard:
    try:
        return DatasetCard.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path}: not a valid dataset card: {error}") from error


def card(name: str) -> DatasetCard:
    """Return the card of a data set; case and ``_``/``-`` in the name do not matter.

    Raises:
        DatasetNotFoundError: no such set; the message gives the nearest known name.

    Example:
        >>> card("demo").level
        'graph'
    """
    path = datasets_folder() / f"{_canonical(name)}.yaml"
    if "/" in name or "\\" in name or not path.is_file():
        raise DatasetNotFoundError(
            f"dataset {name!r} is not known{nearest(_canonical(name), names())}; "
            "`graphkit data` lists all names"
        )
    return _read(path)
