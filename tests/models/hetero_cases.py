"""Small heterogeneous graphs, and a plain dense propagation to compare with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from graphkit.models.rphgnn.projection import projection_matrix, random_features, seed_of


def toy() -> HeteroData:
    """Two authors, three papers, four edges."""
    data = HeteroData()
    data["author"].x = torch.eye(2)
    data["paper"].x = torch.tensor([[1.0], [2.0], [3.0]])
    data["author", "writes", "paper"].edge_index = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 2]])
    return data


SIZES = {"author": 13, "paper": 31, "venue": 4, "term": 9}
EDGES = {
    ("author", "writes", "paper"): 40,
    ("paper", "cites", "paper"): 25,
    ("paper", "in", "venue"): 31,
    ("paper", "has", "term"): 50,
    ("author", "likes", "term"): 12,
}


def academic(seed: int = 0, widths: dict[str, int] | None = None) -> HeteroData:
    """Papers with neighbours of all kinds; venues without features, some nodes without edges."""
    generator = torch.Generator().manual_seed(seed)
    widths = {"author": 5, "paper": 12, "term": 3} if widths is None else widths
    data = HeteroData()
    for kind, size in SIZES.items():
        data[kind].num_nodes = size
        if kind in widths:
            data[kind].x = torch.randn(size, widths[kind], generator=generator)
    for edge_type, count in EDGES.items():
        ends = [
            torch.randint(SIZES[kind] - 1, (count,), generator=generator)
            for kind in (edge_type[0], edge_type[2])
        ]
        data[edge_type].edge_index = torch.stack(ends)
    return data


def with_labels(data: HeteroData, target: str = "paper", classes: int = 3) -> HeteroData:
    """Labels that the features of the target decide, and a split."""
    x = data[target].x
    data[target].y = x[:, :classes].argmax(1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    for place, part in enumerate(("train_mask", "val_mask", "test_mask")):
        mask = torch.zeros(len(x), dtype=torch.bool)
        mask[order[place::3]] = True
        data[target][part] = mask
    return data


def means(data: HeteroData) -> dict[str, tuple[str, str, Tensor, Tensor]]:
    """By relation: its ends, and the dense means towards its second and its first end."""
    found = {}
    for source, relation, destination in data.edge_types:
        edges = data[source, relation, destination].edge_index
        count = torch.zeros(
            data[destination].num_nodes, data[source].num_nodes, dtype=torch.float64
        )
        count.index_put_((edges[1], edges[0]), torch.ones(edges.size(1)).double(), accumulate=True)
        if source == destination:
            count = count + count.t()
        forth = count / count.sum(1, keepdim=True).clamp(min=1)
        back = count.t() / count.t().sum(1, keepdim=True).clamp(min=1)
        found[f"{source}|{relation}|{destination}"] = (source, destination, forth, back)
    return dict(sorted(found.items()))


def normalized(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)


def reference(data: HeteroData, target: str, **options: Any) -> dict[str, Tensor]:
    """The groups in float64 from dense matrices, all types and keys alive at once."""
    steps = {"all": ("odd", "even"), "odd": ("odd",), "even": ("even",)}[
        options.get("even_odd", "all")
    ]
    rounds = options["iterations"] * (2 if steps == ("odd",) else 1)
    width, seed = options["embedding_size"], options["seed"]
    features = {}
    for kind in data.node_types:
        x = data[kind].get("x")
        if x is None:
            drawn = seed_of("features", seed, kind)
            x = random_features(data[kind].num_nodes, width, drawn)
        features[kind] = x.double()
    slots: dict[str, list[Tensor]] = {}
    if options.get("use_input"):
        for name, (source, destination, _, _) in means(data).items():
            if target in (source, destination) and "even" in steps:
                slots[f"{name}|even"] = [features[target]]
    for number in range(rounds):
        keys: dict[str, list[tuple[str, str, Tensor]]] = {kind: [] for kind in features}
        for name, (source, destination, forth, back) in means(data).items():
            ends = [(destination, source, forth, back)]
            if source != destination:
                ends.append((source, destination, back, forth))
            for here, there, into, out in ends:
                if "odd" in steps:
                    keys[here].append((name, "odd", into @ features[there]))
                if "even" in steps:
                    keys[here].append((name, "even", into @ (out @ features[here])))
        for name, step, h in keys[target]:
            slots.setdefault(f"{name}|{step}", []).append(h)
        features = {
            kind: sum(
                (
                    normalized(
                        h
                        @ projection_matrix(
                            h.size(1), x.size(1), seed_of("squash", seed, number, kind, name, step)
                        ).double()
                    )
                    for name, step, h in keys[kind]
                ),
                torch.zeros_like(x),
            )
            for kind, x in features.items()
        }
    return {name: torch.stack(values, 1) for name, values in slots.items()}
