"""RandomAttack: the noise that an attack has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.data.attacks.structure import StructureAttack, Victim, absent_pairs
from graphkit.errors import InputError, nearest

MODES = ("add", "remove", "flip")


class RandomAttack(StructureAttack):
    """Add, remove or flip ``floor(rate * |E|)`` random edges.

    The control of "Adversarial Attacks on Graph Neural Networks via Meta Learning" (Zügner and
    Günnemann, ICLR 2019, arXiv 1902.08412) and of Pro-GNN (arXiv 2005.10203). ``flip`` draws from
    all pairs of nodes alike, so on a sparse graph it adds almost only.

    Args:
        rate: flips per undirected edge, from 0 to 1.
        mode: ``add``, ``remove`` or ``flip``.
        seed: decides what is drawn.

    Raises:
        InputError: an argument is out of range, the graph is directed or not simple, or there are
            too few pairs left.

    Example:
        >>> from torch_geometric.data import Data
        >>> path = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> RandomAttack(0.5)(path).edge_index.tolist()
        [[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]
    """

    def __init__(self, rate: float, mode: str = "add", seed: int = 0) -> None:
        if mode not in MODES:
            raise InputError(f"mode: {mode!r}, wanted one of {MODES}{nearest(str(mode), MODES)}")
        super().__init__(rate, seed, mode=mode)
        self.mode = mode

    def flips(self, victim: Victim, budget: int, generator: torch.Generator) -> Tensor:
        """Draw the pairs."""
        pairs = victim.pairs
        if self.mode == "add":
            return absent_pairs(victim, budget, generator)
        if self.mode == "remove":
            order = torch.randperm(len(pairs), generator=generator).to(pairs.device)
            return pairs[order[:budget]]
        empty = Victim(victim.num_nodes, pairs[:0])
        return absent_pairs(empty, budget, generator)
