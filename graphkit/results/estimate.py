"""What a run would need, found by one forward pass over a few graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from graphkit.recipes.schema import Recipe
from graphkit.results import build

_PROBE_GRAPHS = 8
# Weights, their gradients, and two moments per weight (Adam and AdamW; SGD needs less).
_COPIES_OF_WEIGHTS = 4


@dataclass(frozen=True)
class Estimate:
    """Memory that training adds to what the data set and the libraries take."""

    num_params: int
    weights_bytes: int
    activations_bytes: int
    data_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.activations_bytes + self.data_bytes


def estimate(recipe: Recipe, dataset: Any, seed: int = 0) -> Estimate:
    """Estimate parameters and memory of a recipe.

    What autograd keeps for the backward pass is counted on a batch of a few graphs and scaled to
    the mean size of a training batch.

    Args:
        recipe: overrides applied.
        dataset: its data set.
        seed: of the initial weights, which do not matter here.
    """
    model = build.build_model(recipe, dataset, seed)
    task = build.build_task(recipe, dataset)
    if recipe.start_from is not None and recipe.start_from.take == "node_embeddings":
        task.use_node_input(torch.zeros(task.num_nodes, model.config["in_channels"]))
    batch_size = recipe.trainer.batch_size or task.batch_size
    # Links and users share one graph: a small batch would not tell what the encoder takes.
    if dataset.level == "recommendation":
        task.prepare(model)
    whole = dataset.level in ("link", "recommendation")
    probe = getattr(task, "probe", None)
    if probe is not None:  # its batches come from a long computation
        batch = probe(_PROBE_GRAPHS)
    else:
        loader = task.loader("train", batch_size=batch_size if whole else _PROBE_GRAPHS)
        batch = next(iter(loader))
    seen: dict[int, int] = {}
    kept = []  # holds what is counted, so that no address is used twice

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
        return tensor

    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        task.loss(task.apply(model, batch), batch, "train")
    saved = sum(size for address, size in seen.items() if address not in own)
    scale = 1.0
    if probe is not None:
        nodes = len(dataset.splits["train"])
        scale = min(batch_size, nodes) / int(batch.num_graphs)
    if dataset.level == "graph":
        scale = batch_size / int(batch.num_graphs)
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    return Estimate(
        num_params=build.count_parameters(model),
        weights_bytes=_COPIES_OF_WEIGHTS * parameters,
        activations_bytes=round(saved * scale),
        data_bytes=_bytes_of(dataset.graphs),
    )


def _bytes_of(graphs: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors_of(graphs))


def tensors_of(graphs: Any) -> list[torch.Tensor]:
    """List the tensors that a packed data set holds."""
    found: list[torch.Tensor] = []
    for value in vars(graphs).values():
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            found += [v for v in value.values() if isinstance(v, torch.Tensor)]
    return found
