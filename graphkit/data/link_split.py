"""Random splits of a graph's links, and pairs of nodes that are no links."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphkit.data.checks import check_edge_index
from graphkit.data.convert import pack_single, simple_edges
from graphkit.data.dataset import Parsed
from graphkit.errors import InputError, nearest

_GOLDEN = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class LinkProtocol:
    """How many links go where.

    Attributes:
        test: share of all links, rounded down.
        valid: share of all links (``of_rest``: of those that are not for testing).
        halved: the first half of the validation links is given back to training; negatives are
            as many as before that.
        of_rest: see ``valid``.
    """

    test: float
    valid: float
    halved: bool = False
    of_rest: bool = False


#: 70/10/20 is that of NCN (arXiv 2302.00890) on Planetoid's graphs. 90/10 is that of SEAL (arXiv
#: 1802.09691), of whose 90 percent a tenth is for choosing the epoch.
PROTOCOLS = {
    "70/10/20": LinkProtocol(test=0.2, valid=0.2, halved=True),
    "85/5/10": LinkProtocol(test=0.1, valid=0.05),
    "90/10": LinkProtocol(test=0.1, valid=0.1, of_rest=True),
}


def seeded(*numbers: int) -> torch.Generator:
    """A generator that is decided by a few numbers, each of which changes all it draws."""
    mixed = 0
    for number in numbers:
        mixed = ((mixed ^ (number + 1)) * _GOLDEN + 0xD1B54A32D192ED03) % (1 << 63)
    return torch.Generator().manual_seed(mixed)


def link_keys(edges: Tensor, num_nodes: int, directed: bool = False) -> Tensor:
    """One number for each link, ascending, each once; both directions share one unless directed.

    Example:
        >>> link_keys(torch.tensor([[2, 0], [0, 2]]), num_nodes=3).tolist()
        [2]
    """
    ends = edges if directed else edges.sort(0).values
    return torch.unique(ends[0].long() * num_nodes + ends[1])


def is_among(keys: Tensor, found: Tensor) -> Tensor:
    """Which of ``keys`` are in ``found``, which ascends."""
    if not found.numel():
        return torch.zeros_like(keys, dtype=torch.bool)
    place = torch.searchsorted(found, keys).clamp_(max=found.numel() - 1)
    return found[place] == keys


def non_links(
    keys: Tensor,
    num_nodes: int,
    count: int,
    generator: torch.Generator,
    *,
    directed: bool = False,
) -> Tensor:
    """Draw different pairs of different nodes that are no links, all equally likely.

    Args:
        keys: the links, as :func:`link_keys` gives them.
        num_nodes: ``N``.
        count: how many.
        generator: decides the draw.
        directed: (i, j) and (j, i) are two pairs; else pairs have i < j.

    Shapes:
        - **out:** ``[2, count]`` int64, in random order

    Raises:
        InputError: there are not that many pairs without a link.

    Example:
        >>> square = link_keys(torch.tensor([[0, 1, 2, 0], [1, 2, 3, 3]]), num_nodes=4)
        >>> pairs = non_links(square, 4, 2, seeded(0))
        >>> link_keys(pairs, 4).tolist()
        [2, 7]
    """
    total = num_nodes * (num_nodes - 1) // (1 if directed else 2)
    loops = int((keys // max(num_nodes, 1) == keys % max(num_nodes, 1)).sum())
    free = total - (keys.numel() - loops)
    if count > free:
        raise InputError(
            f"count: {count} pairs without a link wanted, but {num_nodes} nodes with "
            f"{keys.numel() - loops} links have {free}"
        )
    if 3 * count > free:  # few are left out: list them all instead of guessing
        rows = torch.arange(num_nodes)
        every = (rows[:, None] * num_nodes + rows[None, :]).view(-1)
        i, j = every // num_nodes, every % num_nodes
        every = every[(i != j) if directed else (i < j)]
        every = every[~is_among(every, keys)]
        found = every[torch.randperm(every.numel(), generator=generator)[:count]]
        return torch.stack([found // num_nodes, found % num_nodes])
    found = keys.new_empty(0)
    while found.numel() < count:
        short = count - found.numel()
        pairs = torch.randint(num_nodes, (2, short + short // 4 + 16), generator=generator)
        pairs = pairs[:, pairs[0] != pairs[1]]
        ends = pairs if directed else pairs.sort(0).values
        drawn = ends[0] * num_nodes + ends[1]
        found = _first_of_each(torch.cat([found, drawn[~is_among(drawn, keys)]]))
    found = found[:count]
    return torch.stack([found // num_nodes, found % num_nodes])


def _first_of_each(values: Tensor) -> Tensor:
    """Drop repeats, keeping the order of what is left."""
    ordered, place = torch.sort(values, stable=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return values[place[new].sort().values]


def split_links(edges: Tensor, num_nodes: int, protocol: str, seed: int) -> dict[str, Tensor]:
    """Split the links of an undirected graph at random.

    Negatives are pairs i < j without a link in the WHOLE graph, those of validation and test
    different from each other. Train gets none: they are drawn while training.

    Args:
        edges: ``[2, E]`` int64, any direction, repeats count once.
        num_nodes: ``N``.
        protocol: a key of ``PROTOCOLS``.
        seed: number of the run.

    Returns:
        ``train/edge``, ``valid/edge``, ``valid/edge_neg``, ``test/edge`` and ``test/edge_neg``.

    Raises:
        InputError: an unknown protocol, a seed below 0, ids that are no nodes, or a graph with
            too few links or too few pairs without one.

    Example:
        >>> ring = torch.stack([torch.arange(10), torch.arange(1, 11) % 10])
        >>> {key: value.size(1) for key, value in split_links(ring, 10, "70/10/20", 0).items()}
        {'train/edge': 7, 'valid/edge': 1, 'valid/edge_neg': 2, 'test/edge': 2, 'test/edge_neg': 2}
    """
    if protocol not in PROTOCOLS:
        raise InputError(
            f"protocol: {protocol!r} is not one of {', '.join(PROTOCOLS)}"
            f"{nearest(protocol, PROTOCOLS)}"
        )
    if seed < 0:
        raise InputError(f"split_seed: must be at least 0, got {seed}")
    check_edge_index(edges, num_nodes)
    how = PROTOCOLS[protocol]
    keys = link_keys(edges[:, edges[0] != edges[1]], num_nodes)
    total = keys.numel()
    num_test = int(how.test * total)
    held = int(how.valid * (total - num_test if how.of_rest else total))
    num_valid = int(0.5 * held) if how.halved else held
    if min(num_test, num_valid) < 1:
        raise InputError(f"edges: {total} links are too few for a {protocol} split")
    generator = seeded(seed, 0x5EED)
    shuffled = keys[torch.randperm(total, generator=generator)]
    links = torch.stack([shuffled // num_nodes, shuffled % num_nodes])
    negative = non_links(keys, num_nodes, held + num_test, generator)
    return {
        "train/edge": links[:, num_test + num_valid :],
        "valid/edge": links[:, num_test : num_test + num_valid],
        "valid/edge_neg": negative[:, :held],
        "test/edge": links[:, :num_test],
        "test/edge_neg": negative[:, held:],
    }


def with_random_links(whole: Parsed, protocol: str, seed: int) -> Parsed:
    """Split a parsed graph; what is left of the graph are its training links, both ways.

    Args:
        whole: one undirected graph with all its links.
        protocol: a key of ``PROTOCOLS``.
        seed: number of the run.

    Raises:
        InputError: as for :func:`split_links`.
    """
    graphs = whole.graphs
    links = split_links(graphs.edge_index, graphs.num_nodes, protocol, seed)
    node = {key: getattr(graphs, key) for key, kind in graphs.kinds.items() if kind == "node"}
    train = simple_edges(links["train/edge"], graphs.num_nodes, undirected=True)
    return replace(whole, graphs=pack_single(graphs.num_nodes, train, node=node), links=links)
