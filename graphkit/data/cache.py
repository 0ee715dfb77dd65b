"""Keep parsed sets as safetensors, so that the second load only reads tensors."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphkit.data.dataset import Parsed
from graphkit.data.locate import cache_folder
from graphkit.data.packed import PackedGraphs
from graphkit.errors import InputError, StorageError
from graphkit.storage import atomic_path

FORMAT_VERSION = 2
# Larger matrices that are mostly zero (bags of words) are kept as places and values.
_SPARSE_FROM = 1 << 20
_SPARSE_SHARE = 0.2
_warned: set[str] = set()


def cache_key(**parts: Any) -> str:
    """Return one key for everything that decides the content: source, options, format version.

    Example:
        >>> cache_key(source="a") == cache_key(source="b")
        False
    """
    text = json.dumps({"format": FORMAT_VERSION, **parts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _flatten(parsed: Parsed) -> tuple[dict[str, Tensor], dict[str, str]]:
    graphs = parsed.graphs
    tensors = {
        "node_ptr": graphs.node_ptr,
        "edge_ptr": graphs.edge_ptr,
        "edge_index": graphs._edge_index,
    }
    for key, kind in graphs.kinds.items():
        tensors[f"{kind}/{key}"] = graphs._stored[key]
    for number, split in enumerate(parsed.splits):
        for key, ids in split.items():
            tensors[f"split/{number}/{key}"] = ids
    for group, content in (("link", parsed.links), ("extra", parsed.extra)):
        for key, value in content.items():
            tensors[f"{group}/{key}"] = value
    shapes: dict[str, list[int]] = {}
    # Clones, because safetensors refuses two names on one storage.
    kept = {key: value.contiguous().clone() for key, value in tensors.items()}
    for key, value in tensors.items():
        if value.dim() == 2 and value.numel() > _SPARSE_FROM:
            places = value.flatten().nonzero().flatten()
            if len(places) < _SPARSE_SHARE * value.numel():
                shapes[key] = list(value.shape)
                kept[key] = value.flatten()[places]
                kept[f"places/{key}"] = places
    about = {
        "format": FORMAT_VERSION,
        "info": parsed.info,
        "shapes": shapes,
        "served": {key: str(dtype).removeprefix("torch.") for key, dtype in graphs._served.items()},
    }
    return kept, {"graphkit": json.dumps(about)}


def save_parsed(path: Path, parsed: Parsed) -> None:
    """Write a parsed set as one safetensors file, whole or not at all.

    Raises:
        StorageError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    tensors, about = _flatten(parsed)
    with atomic_path(path) as temporary:
        save_file(tensors, str(temporary), metadata=about)


def read_parsed(path: Path) -> Parsed:
    """Read a file written by :func:`save_parsed`; every index in it is checked again.

    Raises:
        InputError: the content is not a parsed set, or an index in it is out of range.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(str(path), framework="pt") as stream:
            about = json.loads((stream.metadata() or {})["graphkit"])
            for key in stream.keys():  # noqa: SIM118  (safe_open is no mapping)
                tensors[key] = stream.get_tensor(key)
        for key, shape in about["shapes"].items():
            dense = torch.zeros(shape, dtype=tensors[key].dtype)
            dense.view(-1)[tensors.pop(f"places/{key}")] = tensors[key]
            tensors[key] = dense
        parts: dict[str, dict[str, Tensor]] = {"node": {}, "edge": {}, "graph": {}}
        splits: dict[int, dict[str, Tensor]] = {}
        groups: dict[str, dict[str, Tensor]] = {"link": {}, "extra": {}}
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            if kind in parts:
                parts[kind][name] = value
            elif kind == "split":
                number, _, part = name.partition("/")
                splits.setdefault(int(number), {})[part] = value
            elif kind in groups:
                groups[kind][name] = value
        graphs = PackedGraphs(
            tensors["node_ptr"],
            tensors["edge_ptr"],
            tensors["edge_index"],
            node=parts["node"],
            edge=parts["edge"],
            graph=parts["graph"],
            served={key: getattr(torch, name) for key, name in about["served"].items()},
        )
        order = {"train": 0, "valid": 1, "test": 2}
        ordered = [
            dict(sorted(splits[number].items(), key=lambda item: order.get(item[0], 9)))
            for number in sorted(splits)
        ]
        return Parsed(graphs, ordered, groups["link"], groups["extra"], about["info"])
    except (
        SafetensorError,
        KeyError,
        ValueError,
        OSError,
        IndexError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise InputError(f"{path}: not a cached data set ({error})") from error


def _writable_folder() -> Path | None:
    """The folder for parsed sets, or ``None`` (with one warning) where nothing can be written."""
    try:
        folder = cache_folder() / "parsed"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        return folder
    except (OSError, RuntimeError) as error:
        place = os.environ.get("GRAPHKIT_CACHE", "the user's cache folder")
        if place not in _warned:
            _warned.add(place)
            warnings.warn(
                f"cannot write to {place} ({error}); data sets will be parsed anew each time. "
                "Set GRAPHKIT_CACHE to a writable folder",
                stacklevel=4,
            )
        return None


def cached(name: str, key: str, build: Callable[[], Parsed]) -> Parsed:
    """Return the parsed set under ``key``, building and keeping it when it is not there.

    Two processes that ask at once build it once: the second waits for the first. A damaged cache
    file is rebuilt silently; the old one stays until the new one is complete.

    Args:
        name: data set name, the readable part of the file name.
        key: see :func:`cache_key`.
        build: called when there is nothing usable.
    """
    folder = _writable_folder()
    if folder is None:
        return build()
    from filelock import FileLock

    path = folder / f"{name}-{key}.safetensors"

    def _usable() -> Parsed | None:
        if not path.is_file():
            return None
        try:
            return read_parsed(path)
        except InputError:
            return None

    ready = _usable()
    if ready is not None:
        return ready
    with FileLock(str(path) + ".lock"):
        ready = _usable()
        if ready is not None:
            return ready
        parsed = build()
        try:
            save_parsed(path, parsed)
        except StorageError as error:
            warnings.warn(f"{name} is not cached: {error}", stacklevel=3)
        return parsed
