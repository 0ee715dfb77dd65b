"""Full-size recipes start correctly: shapes, parameter counts, and a loss that falls.

Most of these recipes need a GPU or data that a test machine lacks, so each model is built at its
full size and trained for a few steps on a handful of generated molecules.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch_geometric.data import Batch, Data

from graphkit import data, recipes
from graphkit.models import create_model
from graphkit.nn.encoders import ATOM_SIZES, BOND_SIZES

OUTPUTS = {"ogbg-molhiv": 1, "ogbg-molpcba": 128, "peptides-func": 10, "peptides-struct": 11}
FULL = [
    name
    for name in recipes.names()
    if recipes.load(name).size == "full" and data.card(name.split("/")[0]).level == "graph"
]


def _columns(sizes: tuple[int, ...], rows: int, generator: torch.Generator) -> torch.Tensor:
    return torch.cat([torch.randint(0, s, (rows, 1), generator=generator) for s in sizes], 1)


def molecules(recipe: Any) -> Batch:
    generator = torch.Generator().manual_seed(0)
    graphs = []
    for n in (9, 12, 15, 21):
        chain = torch.stack([torch.arange(n - 1), torch.arange(1, n)])
        graphs.append(
            Data(
                x=_columns(ATOM_SIZES, n, generator),
                edge_index=torch.cat([chain, chain.flip(0)], 1),
                edge_attr=_columns(BOND_SIZES, n - 1, generator).repeat(2, 1),
                y=torch.randint(0, 2, (1, OUTPUTS[recipe.dataset.name]), generator=generator),
            )
        )
    batch = Batch.from_data_list(graphs)
    for encoding in recipe.model.arguments.get("encodings", ()):
        if encoding["name"] == "rwse":
            batch.rwse = torch.rand(batch.num_nodes, encoding["walk_length"], generator=generator)
        else:
            shape = (batch.num_nodes, encoding["k"])
            batch.lap_vec = torch.randn(shape, generator=generator)
            batch.lap_val = torch.rand(shape, generator=generator)
    return batch


def test_there_are_full_size_recipes_for_every_leaderboard_set() -> None:
    assert {name.split("/")[0] for name in FULL} == set(OUTPUTS)


@pytest.mark.parametrize("name", FULL)
def test_starts_correctly(name: str) -> None:
    recipe = recipes.load(name)
    outputs = OUTPUTS[recipe.dataset.name]
    torch.manual_seed(0)
    model = create_model(
        recipe.model.name,
        **{"in_channels": "atom", "edge_dim": "bond", "out_channels": outputs},
        **{**recipe.model.arguments, "dropout": 0.0},
    )
    count = sum(p.numel() for p in model.parameters())
    if recipe.num_params is not None:
        assert count == recipe.num_params
    if recipe.dataset.name.startswith("peptides"):
        assert count <= 510_000  # LRGB's budget of about 500k, as its own baselines keep it
    batch = molecules(recipe)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(6):
        out = model(batch)
        assert out.shape == (4, outputs)
        if recipe.dataset.name == "peptides-struct":
            loss = (out - batch.y).abs().mean()
        else:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(out, batch.y.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
