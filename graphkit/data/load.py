"""``load``: a data set by its name."""

from __future__ import annotations

import importlib
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from graphkit.data.cache import cache_key, cached
from graphkit.data.cards import DatasetCard
from graphkit.data.cards import card as read_card
from graphkit.data.dataset import GraphDataset, Parsed
from graphkit.data.locate import Source, find
from graphkit.errors import (
    CorruptFileError,
    DatasetNotFoundError,
    GraphkitError,
    InputError,
    nearest,
)

_READERS = {
    "embedded": "graphkit.data.embedded",
    "ogb": "graphkit.data.ogb",
    "lrgb": "graphkit.data.lrgb",
    "planetoid": "graphkit.data.planetoid",
    "mat-network": "graphkit.data.mat_network",
    "npz-node": "graphkit.data.npz_node",
    "heterophilous": "graphkit.data.heterophilous",
    "tu": "graphkit.data.tu",
    "gin": "graphkit.data.gin_text",
    "hgb": "graphkit.data.hgb",
    "ogb-hetero": "graphkit.data.ogb_hetero",
    "robust": "graphkit.data.robust",
    "seal": "graphkit.data.seal",
    "edge-list": "graphkit.data.edge_list",
    "recsys": "graphkit.data.recsys",
}

Reader = Callable[..., Parsed]


def _reader(card: DatasetCard) -> Any:
    if card.reader not in _READERS:
        raise CorruptFileError(
            f"card of {card.name}: reader {card.reader!r} is not known"
            f"{nearest(card.reader, _READERS)}"
        )
    return importlib.import_module(_READERS[card.reader])


def random_split(parsed: Parsed, card: DatasetCard, seed: int) -> Parsed:
    """Replace the splits by a seeded one: 60/20/20 of nodes, 80/10/10 of graphs."""
    total = parsed.graphs.num_nodes if card.level == "node" else len(parsed.graphs)
    shares = (0.6, 0.2) if card.level == "node" else (0.8, 0.1)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    first, second = int(shares[0] * total), int((shares[0] + shares[1]) * total)
    split = {"train": order[:first], "valid": order[first:second], "test": order[second:]}
    split = {key: ids.sort().values for key, ids in split.items()}
    return replace(parsed, splits=[split], info={**parsed.info, "split_kind": "random"})


def load(
    name: str,
    root: str | os.PathLike[str] | None = None,
    *,
    transforms: Sequence[Mapping[str, Any]] = (),
    split: int | None = None,
    split_seed: int | None = None,
    download: bool = False,
    cache: bool = True,
    **options: Any,
) -> GraphDataset:
    """Load a data set by name.

    The files are looked for below ``root``, or below GRAPHKIT_DATA and the cache folder. Nothing is
    fetched unless ``download=True``, nothing is asked, nothing is unpickled. The parsed form is
    kept under GRAPHKIT_CACHE and used again while files, options and transforms stay the same.

    Args:
        name: see :func:`graphkit.data.names`.
        root: data root; default GRAPHKIT_DATA, then the cache folder.
        transforms: applied to all graphs and kept with them, for example
            ``[{"name": "AddRandomWalkPE", "walk_length": 16}]``.
        split: number of the published split, where there are several.
        split_seed: make a random split instead of the published one (``split_kind`` says so). Sets
            without a published split get the one of seed 0; link-level ones among them are split
            anew for each run (:meth:`GraphDataset.of_run`) unless a seed is given here.
        download: fetch a missing set when its card has an address with a checksum.
        cache: ``False`` parses the files anew.
        options: what the reader of this set offers (for example ``split_name="geom-gcn"``).

    Raises:
        DatasetNotFoundError: unknown name (the nearest one is given), or files not found (where it
            looked, how to get them and what they weigh).
        CorruptFileError: a file is truncated or has another checksum than its card says.
        InputError: an option is unknown or its value is not acceptable.

    Example:
        >>> from graphkit import data
        >>> batch = next(iter(data.load("demo").loader("train", batch_size=4)))
        >>> batch.num_graphs
        4
    """
    from graphkit.data.transforms import apply_transforms, create_transform

    card = read_card(name)
    reader = _reader(card)
    accepted = _options(card, reader)
    for key in options:
        if key not in accepted:
            known = [*accepted, "transforms", "split", "split_seed", "download", "cache"]
            raise InputError(
                f"{key}: {card.name} has no such option{nearest(key, known)}; options: {known}"
            )
    chosen = {**accepted, **{k: v for k, v in card.options.items() if k in accepted}, **options}
    if card.level == "recommendation":
        chosen = {}  # they decide how the pairs are looked at, not what is read
    steps = [create_transform(step) for step in transforms]
    try:
        source = find(card, root)
    except DatasetNotFoundError:
        if not download:
            raise
        from graphkit.data.download import fetch

        fetch(card)
        source = find(card)

    def _build() -> Parsed:
        return _parse(reader, card, source, chosen)

    identity: dict[str, Any] = {
        "name": card.name,
        "source": source.sha256,
        "options": chosen,
        "reader": card.options,
    }
    if hasattr(reader, "VERSION"):
        identity["version"] = reader.VERSION
    # An embedded set is parsed faster than a cache file is opened.
    plain = cache and card.reader != "embedded"
    parsed = cached(card.name, cache_key(**identity), _build) if plain else _build()
    if card.level == "recommendation":
        return _recommendation(card, parsed, source.sha256, options, steps, split, split_seed)
    links_drawn = "link_protocol" in parsed.info
    parts_drawn = hasattr(reader, "redrawn") and not parsed.splits
    if card.level == "link" and split_seed is not None and not links_drawn:
        raise InputError(
            f"split_seed: {card.name} has an official split of its links; leave it out"
        )
    if split_seed is not None and "node_types" in parsed.info:
        drawn_by = "; valid_seed draws what validates" if "valid_seed" in accepted else ""
        raise InputError(f"split_seed: {card.name} has published test nodes{drawn_by}")
    if split_seed is None and not parsed.splits and card.level != "link" and not parts_drawn:
        split_seed = 0
    if parts_drawn:
        if any(step.reads_split for step in steps):
            raise InputError(
                f"transforms: each run of {card.name} has its own split, which none may read"
            )
    elif split_seed is not None and not links_drawn:
        parsed = random_split(parsed, card, split_seed)
    if steps:
        config = [step.config for step in steps]
        if any(step.reads_split for step in steps):
            parsed = _for_one_split(parsed, card, split)
            identity["split"] = [split_seed, split]
            split = None
        clean = parsed.graphs

        def _transform() -> Parsed:
            return replace(parsed, graphs=apply_transforms(clean, steps))

        transformed_key = cache_key(**identity, transforms=config)
        transformed = cached(card.name, transformed_key, _transform) if cache else _transform()
        # Only graphs come from the cache: its key does not hold a split that no transform reads.
        parsed = replace(parsed, graphs=transformed.graphs)
        options = {**options, "transforms": config}
    drawn: Callable[[int], GraphDataset] | None = None
    if links_drawn:
        drawn = partial(_with_links, card, parsed, source.sha256, options)
    elif hasattr(reader, "redrawn"):
        # With a seed of its own the split stays; random features still follow from the run.
        redrawn = _same_parts if "valid_seed" in options else reader.redrawn
        drawn = partial(_with_parts, card, parsed, source.sha256, options, redrawn)
    if drawn is not None and (links_drawn or parts_drawn):
        dataset = drawn(split_seed or 0)
    else:
        dataset = GraphDataset(card, parsed, source.sha256, options)
    if split is not None:
        dataset.select_split(split)
    dataset.redraw = drawn if split_seed is None else None
    return dataset


def _with_parts(
    card: DatasetCard, parsed: Parsed, sha256: str, options: dict[str, Any], redrawn: Any, seed: int
) -> GraphDataset:
    """Where parts of the split are not published, each run draws its own."""
    return GraphDataset(card, redrawn(parsed, seed), sha256, options)


def _same_parts(parsed: Parsed, seed: int) -> Parsed:
    return replace(parsed, info={**parsed.info, "run_seed": seed})


def _options(card: DatasetCard, reader: Any) -> dict[str, Any]:
    if card.level == "recommendation":
        from graphkit.data.recsys import OPTIONS

        return dict(OPTIONS)
    return dict(getattr(reader, "OPTIONS", {}))


def _recommendation(
    card: DatasetCard,
    parsed: Parsed,
    sha256: str,
    options: dict[str, Any],
    steps: Sequence[Any],
    split: int | None,
    split_seed: int | None,
) -> GraphDataset:
    from graphkit.data import recsys

    if steps or split is not None:
        raise InputError(f"transforms, split: {card.name} has users and items, leave them out")
    return recsys.build(card, parsed, sha256, options, split_seed or 0)


def _with_links(
    card: DatasetCard, parsed: Parsed, sha256: str, options: dict[str, Any], seed: int
) -> GraphDataset:
    from graphkit.data.link_split import with_random_links

    protocol = str(parsed.info["link_protocol"])
    drawn = with_random_links(parsed, protocol, seed)
    if protocol != card.options.get("split_name", protocol):
        drawn.info = {**drawn.info, "split_kind": "random"}
    return GraphDataset(card, drawn, sha256, options)


def _for_one_split(parsed: Parsed, card: DatasetCard, split: int | None) -> Parsed:
    """Leave one split and mark its training nodes: what reads them is wrong for all others."""
    if card.level != "node":
        raise InputError(
            f"transforms: {card.name} has no training nodes, its level is {card.level}"
        )
    if split is None and len(parsed.splits) > 1:
        raise InputError(
            f"split: a transform reads the training nodes and {card.name} has {len(parsed.splits)} "
            f"splits; choose one of 0..{len(parsed.splits) - 1}"
        )
    number = split or 0
    if not 0 <= number < len(parsed.splits):
        raise InputError(f"split: {card.name} has splits 0..{len(parsed.splits) - 1}, got {number}")
    chosen = parsed.splits[number]
    if len(parsed.graphs) > 1:
        raise InputError(
            f"transforms: {card.name} has {len(parsed.graphs)} graphs; a transform that reads "
            "training nodes wants one"
        )
    mask = torch.zeros(parsed.graphs.num_nodes, dtype=torch.bool)
    mask[chosen["train"]] = True
    graphs = parsed.graphs.with_attributes(node={"train_mask": mask})
    return replace(parsed, graphs=graphs, splits=[chosen])


def _parse(reader: Any, card: DatasetCard, source: Source, options: dict[str, Any]) -> Parsed:
    try:
        parsed: Parsed = reader.read(card, source, **options)
    except GraphkitError:
        raise
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptFileError(
            f"{card.name}: {source.base} could not be read ({type(error).__name__}: {error}); "
            f"get it again: {card.how_to_get}"
        ) from error
    if card.official_size and not source.exact:
        parsed.info["data_kind"] = "official"
    return parsed
