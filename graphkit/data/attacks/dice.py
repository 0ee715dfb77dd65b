"""DICE: disconnect internally, connect externally."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.data.attacks.structure import StructureAttack, Victim, absent_pairs
from graphkit.errors import InputError


class DICE(StructureAttack):
    """Remove edges inside classes and add edges between them, from the true labels.

    From "Hiding Individuals and Communities in a Social Network" (Waniek et al., Nature Human
    Behaviour 2018, arXiv 1608.00375), as the baseline of Zügner and Günnemann (arXiv 1902.08412):
    each flip adds an edge between classes with probability ``add_share``, else it removes one
    inside a class. When one kind is used up, the other takes over.

    Args:
        rate: flips per undirected edge, from 0 to 1.
        add_share: probability of an addition, from 0 to 1.
        seed: decides what is drawn.

    Raises:
        InputError: an argument is out of range, the graph is directed or not simple or has no
            labels, or there are too few pairs of the right kind.

    Example:
        >>> from torch_geometric.data import Data
        >>> path = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> path.y = torch.tensor([0, 0, 1])
        >>> DICE(0.5, add_share=0.0)(path).edge_index.tolist()
        [[1, 2], [2, 1]]
    """

    def __init__(self, rate: float, add_share: float = 0.5, seed: int = 0) -> None:
        if not 0 <= add_share <= 1:
            raise InputError(f"add_share: {add_share}, wanted a number from 0 to 1")
        super().__init__(rate, seed, add_share=add_share)
        self.add_share = add_share

    def flips(self, victim: Victim, budget: int, generator: torch.Generator) -> Tensor:
        """Draw the pairs."""
        y, pairs, nodes = victim.classes().cpu(), victim.pairs.cpu(), victim.num_nodes
        inside = pairs[y[pairs // nodes] == y[pairs % nodes]]
        within = torch.unique(y, return_counts=True)[1]
        all_between = nodes * (nodes - 1) // 2 - int((within * (within - 1) // 2).sum())
        free = all_between - (len(pairs) - len(inside))
        if len(inside) + free < budget:
            raise InputError(
                f"rate: {self.rate} asks for {budget} flips, but there are {len(inside)} edges "
                f"inside classes and {free} pairs between classes without an edge"
            )
        additions = int((torch.rand(budget, generator=generator) < self.add_share).sum())
        additions = min(max(additions, budget - len(inside)), free)
        order = torch.randperm(len(inside), generator=generator)
        removed = inside[order[: budget - additions]]
        added = absent_pairs(victim, additions, generator, lambda u, v: y[u] != y[v])
        return torch.cat([removed.to(added.device), added])
