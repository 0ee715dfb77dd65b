"""Make the embedded sets: `python datasets/build_embedded.py [folder]` writes the npz files.

Everything is drawn from fixed seeds, so that the arrays are the same on each run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

CARBON, NITROGEN, OXYGEN, FLUORINE, PHOSPHORUS, SULFUR = 5, 6, 7, 8, 14, 15
VALENCE = {CARBON: 4, NITROGEN: 3, OXYGEN: 2, FLUORINE: 1, PHOSPHORUS: 3, SULFUR: 2}
SINGLE, AROMATIC = 0, 3


class Molecule:
    """A molecule being grown atom by atom."""

    def __init__(self) -> None:
        self.atoms: list[int] = []
        self.ring: list[bool] = []
        self.bonds: list[tuple[int, int, int]] = []

    def add(self, atom: int, to: int | None = None, ring: bool = False) -> int:
        self.atoms.append(atom)
        self.ring.append(ring)
        if to is not None:
            self.bonds.append((to, len(self.atoms) - 1, SINGLE))
        return len(self.atoms) - 1

    def benzene(self, to: int) -> list[int]:
        ids = [self.add(CARBON, ring=True) for _ in range(6)]
        self.bonds.append((to, ids[0], SINGLE))
        self.bonds.extend((ids[k], ids[(k + 1) % 6], AROMATIC) for k in range(6))
        return ids

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """OGB's nine atom and three bond columns; both directions of a bond stand side by side."""
        degree = np.zeros(len(self.atoms), dtype=np.int64)
        order = np.zeros(len(self.atoms), dtype=np.float64)
        for u, v, kind in self.bonds:
            degree[[u, v]] += 1
            order[[u, v]] += 1.5 if kind == AROMATIC else 1.0
        x = np.zeros((len(self.atoms), 9), dtype=np.int8)
        for i, atom in enumerate(self.atoms):
            hydrogens = max(0, int(VALENCE[atom] - order[i]))
            x[i] = [
                atom,
                0,
                degree[i],
                5,
                hydrogens,
                0,
                1 if self.ring[i] else 2,
                int(self.ring[i]),
                int(self.ring[i]),
            ]
        edges, attributes = [], []
        for u, v, kind in self.bonds:
            edges += [(u, v), (v, u)]
            attributes += [(kind, 0, int(kind == AROMATIC))] * 2
        return x, np.array(edges, dtype=np.int16).T, np.array(attributes, dtype=np.int8)


def _molecule(rng: np.random.Generator) -> tuple[Molecule, int, int]:
    """A carbon skeleton with N and O side groups, then a plain chain of eight carbons that ends
    in S or P. Returns the excess of N over O, and the sign (+1 for S, -1 for P) at the far end."""
    molecule = Molecule()
    body = [molecule.add(CARBON)]
    for _ in range(int(rng.integers(5, 10))):
        free = [i for i in body if sum(i in bond[:2] for bond in molecule.bonds) < 3]
        body.append(
            molecule.add(CARBON, to=free[-1] if rng.random() < 0.7 else int(rng.choice(free)))
        )
    if rng.random() < 0.4:
        body += molecule.benzene(body[-1])[2:5]
    count = int(rng.integers(3, 7))
    excess = 0
    while excess == 0:
        groups = rng.choice([NITROGEN, OXYGEN], size=count)
        excess = int((groups == NITROGEN).sum() - (groups == OXYGEN).sum())
    open_sites = [i for i in body if sum(i in bond[:2] for bond in molecule.bonds) < 4]
    sites = rng.choice(open_sites[1:], size=min(count, len(open_sites) - 1), replace=False)
    groups = groups[: len(sites)]
    excess = int((groups == NITROGEN).sum() - (groups == OXYGEN).sum())
    for site, atom in zip(sites, groups, strict=True):
        molecule.add(int(atom), to=int(site))
    tail = body[0]
    for _ in range(8):
        tail = molecule.add(CARBON, to=tail)
    sign = 1 if rng.random() < 0.5 else -1
    molecule.add(SULFUR if sign > 0 else PHOSPHORUS, to=tail)
    return molecule, excess, sign


def _pack(items: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    return {
        "num_nodes": np.array([len(x) for x, _, _ in items], dtype=np.int16),
        "num_edges": np.array([e.shape[1] for _, e, _ in items], dtype=np.int16),
        "node/x": np.concatenate([x for x, _, _ in items]),
        "edge_index": np.concatenate([e for _, e, _ in items], axis=1),
        "edge/edge_attr": np.concatenate([a for _, _, a in items]),
    }


def _split(
    rng: np.random.Generator, total: int, train: float, valid: float
) -> dict[str, np.ndarray]:
    order = rng.permutation(total)
    first, second = int(train * total), int((train + valid) * total)
    parts = {"train": order[:first], "valid": order[first:second], "test": order[second:]}
    return {f"split/{key}": np.sort(ids).astype(np.int32) for key, ids in parts.items()}


def demo(graphs: int = 600) -> dict[str, np.ndarray]:
    """Binary: (more N than O) exclusive-or (the far end is P). Neither end alone tells anything."""
    rng = np.random.default_rng(20260101)
    items, labels = [], []
    while len(items) < graphs:
        molecule, excess, sign = _molecule(rng)
        label = int(excess * sign > 0)
        # Equal classes: without them the far end alone would carry a little information.
        if excess == 0 or labels.count(label) >= graphs // 2:
            continue
        items.append(molecule.arrays())
        labels.append(label)
    y = np.array(labels, dtype=np.float32)[:, None]
    return {**_pack(items), "graph/y": y, **_split(rng, graphs, 0.7, 0.15)}


def demo_regression(graphs: int = 400) -> dict[str, np.ndarray]:
    """Regression: the excess of N over O counts up when the far end is S and down when it is P."""
    rng = np.random.default_rng(20260102)
    items, targets = [], []
    while len(items) < graphs:
        molecule, excess, sign = _molecule(rng)
        items.append(molecule.arrays())
        targets.append(excess * sign / 2 + 0.05 * len(molecule.atoms) + 0.1 * rng.standard_normal())
    y = np.array(targets, dtype=np.float32)[:, None]
    return {**_pack(items), "graph/y": y, **_split(rng, graphs, 0.7, 0.15)}


def _block_edges(
    rng: np.random.Generator, blocks: np.ndarray, inside: float, across: float
) -> np.ndarray:
    """Undirected edges (u < v) of a stochastic block model."""
    u, v = np.triu_indices(len(blocks), k=1)
    chance = np.where(blocks[u] == blocks[v], inside, across)
    kept = rng.random(len(u)) < chance
    return np.stack([u[kept], v[kept]]).astype(np.int16)


def _both_ways(edges: np.ndarray) -> np.ndarray:
    doubled = np.repeat(edges, 2, axis=1)
    doubled[:, 1::2] = doubled[::-1, 0::2]
    return doubled


def demo_node(nodes: int = 600, classes: int = 4, features: int = 16) -> dict[str, np.ndarray]:
    """Node classification: a stochastic block model with features too noisy to classify alone."""
    rng = np.random.default_rng(20260103)
    y = rng.permutation(np.arange(nodes) % classes)
    edges = _both_ways(_block_edges(rng, y, 0.045, 0.005))
    centres = rng.standard_normal((classes, features))
    x = 0.5 * centres[y] + rng.standard_normal((nodes, features))
    return {
        "num_nodes": np.array([nodes], dtype=np.int32),
        "num_edges": np.array([edges.shape[1]], dtype=np.int32),
        "node/x": x.astype(np.float16),
        "edge_index": edges,
        "node/y": y.astype(np.int64),
        **_split(rng, nodes, 0.2, 0.3),
    }


def demo_link(nodes: int = 300, blocks: int = 6, features: int = 8) -> dict[str, np.ndarray]:
    """Link prediction on a stochastic block model; the graph holds the training edges only."""
    rng = np.random.default_rng(20260104)
    member = rng.permutation(np.arange(nodes) % blocks)
    edges = _block_edges(rng, member, 0.25, 0.004)
    edges = edges[:, rng.permutation(edges.shape[1])]
    first, second = int(0.8 * edges.shape[1]), int(0.9 * edges.shape[1])
    taken = set(map(tuple, edges.T.tolist()))
    false: list[tuple[int, int]] = []
    while len(false) < 1000:
        u, v = sorted(rng.integers(0, nodes, size=2).tolist())
        if u != v and (u, v) not in taken:
            taken.add((u, v))
            false.append((u, v))
    negative = np.array(false, dtype=np.int16).T
    train = _both_ways(edges[:, :first])
    x = 0.5 * rng.standard_normal((blocks, features))[member] + rng.standard_normal(
        (nodes, features)
    )
    return {
        "num_nodes": np.array([nodes], dtype=np.int32),
        "num_edges": np.array([train.shape[1]], dtype=np.int32),
        "node/x": x.astype(np.float16),
        "edge_index": train,
        "link/train/edge": edges[:, :first],
        "link/valid/edge": edges[:, first:second],
        "link/valid/edge_neg": negative[:, :500],
        "link/test/edge": edges[:, second:],
        "link/test/edge_neg": negative[:, 500:],
    }


def demo_rec() -> dict[str, np.ndarray]:
    """200 users and 150 items in 5 groups; liked are popular items and those of one's group."""
    rng = np.random.default_rng(11)
    users, items, groups = 200, 150, 5
    taste, kind = rng.integers(0, groups, users), np.arange(items) % groups
    popular = rng.pareto(2.5, items) + 0.2
    train, test = [], []
    for user in range(users):
        weight = popular * np.where(kind == taste[user], 12.0, 1.0)
        count = int(rng.integers(8, 25))
        liked = rng.choice(items, size=count, replace=False, p=weight / weight.sum())
        held = max(count // 5, 1)
        test += [(user, item) for item in sorted(liked[:held])]
        train += [(user, item) for item in sorted(liked[held:])]
    return {
        "num_nodes": np.array([1], dtype=np.int32),
        "num_edges": np.array([0], dtype=np.int32),
        "edge_index": np.zeros((2, 0), dtype=np.int16),
        "link/train/edge": np.array(train, dtype=np.int16).T,
        "link/test/edge": np.array(test, dtype=np.int16).T,
    }


SETS = {
    "demo": demo,
    "demo-regression": demo_regression,
    "demo-node": demo_node,
    "demo-link": demo_link,
    "demo-rec": demo_rec,
}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, make in SETS.items():
        np.savez_compressed(folder / f"{name}.npz", **make())


if __name__ == "__main__":
    main()
