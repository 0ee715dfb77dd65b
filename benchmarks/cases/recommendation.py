"""Recommendation: a training step of UltraGCN against plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.cases.registry import Pair, Step, register
from graphkit.data.interactions import Interactions
from graphkit.models import InteractionBatch, UltraGCN

# Of Gowalla, with the published settings.
USERS, ITEMS, DIM, BATCH, NEGATIVES = 29_858, 40_981, 64, 512, 1500
PAIRS = 810_128


@register(
    "ultragcn_step", "UltraGCN training step of Gowalla's sizes, 512 pairs x 1,500 negatives, "
    "against gathered rows", step=3,
)  # fmt: skip
def _step(scale: float) -> dict[str, Callable[[], Pair]]:
    torch.manual_seed(0)
    users, items = max(60, int(USERS * scale)), max(60, int(ITEMS * scale))
    count, negatives = max(users, int(PAIRS * scale)), max(20, int(NEGATIVES * min(scale, 1.0)))
    count = min(count, users * items // 2)
    keys = torch.randint(users * items, (count,))
    keys[:users] = torch.arange(users) * items + torch.arange(users) % items
    pairs = Interactions(torch.stack([keys // items, keys % items]), users, items, dedupe=True)
    settings = {"dim": DIM, "num_negatives": negatives, "init_std": 0.1}
    ours = UltraGCN(users, items, **settings)  # type: ignore[arg-type]
    ours.prepare(pairs)
    peer = peers.GatheredUltraGCN(ours)
    current: dict[str, InteractionBatch] = {}
    turn = [0]

    def prepare() -> None:
        generator = torch.Generator().manual_seed(turn[0] // 2)  # the same for both sides
        turn[0] += 1
        chosen = torch.randint(pairs.num_pairs, (BATCH,), generator=generator)
        drawn = torch.randint(items, (BATCH, negatives), generator=generator)
        current["batch"] = InteractionBatch(*pairs.edge_index[:, chosen], drawn)

    def trained(model: torch.nn.Module, loss_of: Callable[[InteractionBatch], Tensor]) -> Step:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

        def step() -> tuple[Tensor]:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(current["batch"])
            loss.backward()
            optimizer.step()
            return (loss.detach(),)

        return step

    prepare()
    with torch.no_grad():
        torch.testing.assert_close(
            ours.training_loss(current["batch"]), peer(current["batch"]), rtol=1e-4, atol=0.0
        )
    return {
        "step": lambda: Pair(
            trained(ours, ours.training_loss), trained(peer, peer), prepare, tolerance=None
        )
    }
