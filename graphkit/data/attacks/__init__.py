"""Structure attacks as transforms: what a robust model has to withstand.

All flip exactly ``floor(rate * |E|)`` pairs of nodes, are decided by their seed, and run on a PyG
``Data``, in :func:`graphkit.data.load` and from recipes.

Example:
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> edge_index = torch.tensor([[0, 1, 2, 3, 1, 2, 3, 0], [1, 2, 3, 0, 0, 1, 2, 3]])
    >>> RandomAttack(0.25, mode="remove")(Data(edge_index=edge_index, num_nodes=4)).num_edges
    6
"""

from graphkit.data.attacks.dice import DICE
from graphkit.data.attacks.metattack import Metattack
from graphkit.data.attacks.pgd import PGDAttack
from graphkit.data.attacks.random_attack import RandomAttack
from graphkit.data.attacks.structure import StructureAttack, edge_changes
from graphkit.data.attacks.surrogate import SurrogateGCN

__all__ = [
    "DICE",
    "Metattack",
    "PGDAttack",
    "RandomAttack",
    "StructureAttack",
    "SurrogateGCN",
    "edge_changes",
]
