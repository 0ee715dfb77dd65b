"""What all structure attacks share: which graphs they take, how many pairs they flip, and how."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphkit.data.checks import check_edge_index
from graphkit.data.packed import PackedGraphs
from graphkit.data.transforms import Transform
from graphkit.errors import InputError

if TYPE_CHECKING:
    from torch_geometric.data import Data

_ENUMERATED = 1 << 20  # pairs of nodes; beyond, absent pairs are drawn and rejected
_ROUNDS = 200
_OF_EDGES = ("edge_attr", "edge_weight", "edge_type", "adj_t", "adj")


@dataclass(frozen=True)
class Victim:
    """One undirected graph under attack. A pair ``u < v`` of nodes has the number ``u * N + v``.

    Attributes:
        num_nodes: ``N``.
        pairs: ``[E]`` int64, sorted numbers of the edges, each once.
        x: ``[N, F]`` features, if there are any.
        y: ``[N]`` int64 classes, if there are any.
        train: ``[T]`` int64 training nodes, if they are known.
    """

    num_nodes: int
    pairs: Tensor
    x: Tensor | None = None
    y: Tensor | None = None
    train: Tensor | None = None

    def features(self) -> Tensor:
        """Features as float tensors.

        Raises:
            InputError: there are none.
        """
        if self.x is None or self.x.dim() != 2:
            raise InputError("x: this attack needs node features [N, F], the graph has none")
        return self.x if self.x.is_floating_point() else self.x.float()

    def classes(self) -> Tensor:
        """The class of every node.

        Raises:
            InputError: there are no labels, or not one class per node.
        """
        if self.y is None:
            raise InputError("y: this attack needs one class per node, the graph has none")
        y = self.y.squeeze(-1) if self.y.dim() == 2 else self.y
        if y.shape != (self.num_nodes,) or y.is_floating_point():
            raise InputError(
                f"y: {self.y.dtype} of shape {list(self.y.shape)}, wanted [{self.num_nodes}] "
                "integer classes, one per node"
            )
        return y.long()

    def split(self) -> tuple[Tensor, Tensor]:
        """Training nodes and all others.

        Raises:
            InputError: the training nodes are unknown, none, or all nodes, or one has no class.
        """
        if self.train is None:
            raise InputError("train_mask: this attack must know the training nodes, there is none")
        inside = torch.zeros(self.num_nodes, dtype=torch.bool, device=self.pairs.device)
        inside[self.train] = True
        others = (~inside).nonzero().flatten()
        if not len(self.train) or not len(others):
            raise InputError(
                f"train_mask: {len(self.train)} of {self.num_nodes} nodes, wanted at least one "
                "inside and one outside"
            )
        if self.y is not None:
            self.refuse_unlabelled(self.train, "training")
        return self.train, others

    def refuse_unlabelled(self, nodes: Tensor, kind: str) -> None:
        """Refuse a class below 0, which stands for an unknown one, where it is learnt from.

        Raises:
            InputError: names the node.
        """
        missing = nodes[self.classes()[nodes] < 0]
        if len(missing):
            at = int(missing[0])
            raise InputError(
                f"y: class {int(self.classes()[at])} of {kind} node {at}, wanted classes from 0"
            )


def edges_of(pairs: Tensor, num_nodes: int) -> Tensor:
    """Both directions of numbered pairs, ``[2, 2E]``, sorted by source and target."""
    u, v = pairs // num_nodes, pairs % num_nodes
    keys = torch.cat([pairs, v * num_nodes + u]).sort().values
    return torch.stack([keys // num_nodes, keys % num_nodes])


def pairs_of(edge_index: Tensor, num_nodes: int) -> Tensor:
    """Sorted numbers of the edges of a simple undirected graph.

    Raises:
        InputError: an edge is a loop, is there twice, or has no edge back.

    Example:
        >>> pairs_of(torch.tensor([[0, 2, 1, 1], [1, 1, 0, 2]]), 3).tolist()
        [1, 5]
    """
    check_edge_index(edge_index, num_nodes)
    source, target = edge_index.long()
    loops = source[source == target]
    if len(loops):
        raise InputError(
            f"edge_index: {len(loops)} self-loops, the first at node {int(loops[0])}; attacks take "
            "simple graphs, remove them first"
        )
    keys = (source * num_nodes + target).sort().values
    twice = (keys[1:] == keys[:-1]).nonzero().flatten()
    if len(twice):
        key = int(keys[twice[0]])
        raise InputError(
            f"edge_index: edge {key // num_nodes} -> {key % num_nodes} is there more than once "
            f"({len(twice)} repeats); wanted each edge once"
        )
    back = (target * num_nodes + source).sort().values
    if not torch.equal(keys, back):
        lone = keys[~torch.isin(keys, back)]
        key = int(lone[0])
        raise InputError(
            f"edge_index: {key // num_nodes} -> {key % num_nodes} has no edge back ({len(lone)} "
            "such edges); wanted an undirected graph, both directions of every edge"
        )
    return keys[keys // num_nodes < keys % num_nodes]


def flipped(pairs: Tensor, flips: Tensor) -> Tensor:
    """The sorted pairs after ``flips``: what is there goes, what is not there comes."""
    stay = pairs[~torch.isin(pairs, flips)]
    return torch.cat([stay, flips[~torch.isin(flips, pairs)]]).sort().values


def edge_changes(before: Data, after: Data) -> tuple[Tensor, Tensor]:
    """What an attack added and what it removed.

    Shapes:
        - **added, removed:** ``[2, K]`` int64, each undirected edge once, smaller node first.

    Raises:
        InputError: a graph is not simple and undirected, or the numbers of nodes differ.

    Example:
        >>> from torch_geometric.data import Data
        >>> path = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> edge = Data(edge_index=torch.tensor([[0, 2], [2, 0]]), num_nodes=3)
        >>> [part.tolist() for part in edge_changes(path, edge)]
        [[[0], [2]], [[0, 1], [1, 2]]]
    """
    nodes = int(before.num_nodes or 0)
    if nodes != after.num_nodes:
        raise InputError(f"after: {after.num_nodes} nodes, wanted {nodes} as before")
    assert before.edge_index is not None
    assert after.edge_index is not None
    old, new = pairs_of(before.edge_index, nodes), pairs_of(after.edge_index, nodes)
    added, removed = new[~torch.isin(new, old)], old[~torch.isin(old, new)]
    return (
        torch.stack([added // nodes, added % nodes]),
        torch.stack([removed // nodes, removed % nodes]),
    )


def absent_pairs(
    victim: Victim,
    count: int,
    generator: torch.Generator,
    accept: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Draw pairs without an edge, uniformly and without replacement.

    Args:
        victim: the graph.
        count: how many.
        generator: where randomness comes from.
        accept: which pairs ``(u, v)`` may be drawn; all when not given.

    Raises:
        InputError: there are fewer such pairs.
    """
    nodes, present = victim.num_nodes, victim.pairs.cpu()

    def allowed(u: Tensor, v: Tensor) -> Tensor:
        numbers = u * nodes + v
        keep = ~torch.isin(numbers, present)
        return keep if accept is None else keep & accept(u, v)

    found = torch.zeros(0, dtype=torch.int64)
    if nodes * (nodes - 1) // 2 <= _ENUMERATED:
        u, v = torch.triu_indices(nodes, nodes, 1)
        found = (u * nodes + v)[allowed(u, v)]
        found = found[torch.randperm(len(found), generator=generator)]
    else:
        for _ in range(_ROUNDS):
            if len(found) >= count:
                break
            ends = torch.randint(nodes, (2, max(2 * count, 1024)), generator=generator)
            u, v = ends.min(0).values, ends.max(0).values
            u, v = u[u != v], v[u != v]
            found = torch.cat([found, (u * nodes + v)[allowed(u, v)]])
            # Of equal draws the first one counts, which keeps the sample uniform.
            first = np.sort(np.unique(found.numpy(), return_index=True)[1])
            found = found[torch.from_numpy(first)]
    if len(found) < count:
        raise InputError(
            f"rate: asks for {count} new edges, but only {len(found)} pairs of nodes can get one"
        )
    return found[:count].to(victim.pairs.device)


class StructureAttack(Transform):
    """Base of the attacks: flip exactly ``floor(rate * |E|)`` pairs of nodes of each graph.

    Graphs are undirected and simple before and after: both directions of an edge come and go
    together, no loops, no repeats; the new ``edge_index`` is sorted by source and target. Features,
    labels and masks stay. Edge attributes are refused: a new edge would have no value.

    On a PyG ``Data``, ``y`` holds one class per node and ``train_mask`` marks the training nodes;
    :func:`graphkit.data.load` gives attacks the training nodes of the chosen split by itself.

    Args:
        rate: flips per undirected edge, from 0 to 1.
        seed: decides everything that is drawn.
        arguments: further entries of ``config``.

    Raises:
        InputError: ``rate`` is not from 0 to 1, or ``seed`` is not a whole number from 0.
    """

    def __init__(self, rate: float, seed: int, **arguments: Any) -> None:
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise InputError(f"rate: {rate!r}, wanted a number from 0 to 1")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InputError(f"seed: {seed!r}, wanted a whole number from 0")
        super().__init__(None, rate=rate, **arguments, seed=seed)
        self.rate, self.seed = rate, seed

    def budget(self, num_edges: int) -> int:
        """Number of flips for a graph with so many undirected edges.

        In decimal arithmetic: 0.29 of 100 edges are 29, although ``0.29 * 100 < 29`` in floats.
        """
        return math.floor(Fraction(str(self.rate)) * num_edges)

    def flips(self, victim: Victim, budget: int, generator: torch.Generator) -> Tensor:
        """Choose ``budget`` different pairs to flip, by their numbers."""
        raise NotImplementedError

    def _attacked(self, victim: Victim, generator: torch.Generator) -> Tensor:
        budget = self.budget(len(victim.pairs))
        chosen = self.flips(victim, budget, generator) if budget else victim.pairs[:0]
        assert len(chosen) == budget == len(torch.unique(chosen))
        return edges_of(flipped(victim.pairs, chosen), victim.num_nodes)

    def __call__(self, data: Data) -> Data:
        """Return the attacked graph; the input is left as it is."""
        for key in _OF_EDGES:
            if key in data and data[key] is not None:
                raise InputError(
                    f"{key}: attacks change which edges there are, and a new edge has no {key}; "
                    f"remove {key} first"
                )
        if data.edge_index is None or data.num_nodes is None:
            raise InputError("edge_index: the graph has none")
        mask = data.train_mask if "train_mask" in data else None
        victim = Victim(
            data.num_nodes,
            pairs_of(data.edge_index, data.num_nodes),
            data.x,
            data.y if isinstance(data.y, Tensor) else None,
            None if mask is None else _ids(mask, data.num_nodes),
        )
        attacked = copy.copy(data)
        generator = torch.Generator().manual_seed(self.seed)
        attacked.edge_index = self._attacked(victim, generator)
        attacked.num_nodes = data.num_nodes
        return attacked

    def apply(self, graphs: PackedGraphs) -> PackedGraphs:
        """Attack every graph."""
        parts: dict[str, dict[str, Tensor]] = {"node": {}, "edge": {}, "graph": {}}
        for key, kind in graphs.kinds.items():
            if kind == "edge":
                raise InputError(
                    f"{key}: attacks change which edges there are, and a new edge has no {key}"
                )
            parts[kind][key] = getattr(graphs, key)
        of_nodes = parts["node"]
        whole, edges = graphs.edge_index, [torch.zeros(2, 0, dtype=torch.int64)]
        generator = torch.Generator().manual_seed(self.seed)
        for number in range(len(graphs)):
            first, last = graphs.node_ptr[number : number + 2].tolist()
            own = {key: value[first:last] for key, value in of_nodes.items()}
            mask = own.get("train_mask")
            begin, end = graphs.edge_ptr[number : number + 2].tolist()
            victim = Victim(
                last - first,
                pairs_of(whole[:, begin:end], last - first),
                own.get("x"),
                own.get("y"),
                None if mask is None else _ids(mask, last - first),
            )
            edges.append(self._attacked(victim, generator))
        sizes = torch.tensor([0, *(part.size(1) for part in edges[1:])])
        return PackedGraphs(
            graphs.node_ptr,
            sizes.cumsum(0),
            torch.cat(edges, dim=1),
            check=False,
            node=of_nodes,
            graph=parts["graph"],
        )


def _ids(mask: Tensor, num_nodes: int) -> Tensor:
    if mask.dtype != torch.bool or mask.shape != (num_nodes,):
        raise InputError(
            f"train_mask: {mask.dtype} of shape {list(mask.shape)}, wanted bool [{num_nodes}]; "
            "choose one split"
        )
    return mask.nonzero().flatten()
