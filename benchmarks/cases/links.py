"""Link prediction: a training step of NCNC against plain torch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cases.registry import Pair, Skipped, Step, register
from benchmarks.link_peer import KeySearchNCNC
from graphkit import data
from graphkit.errors import GraphkitError
from graphkit.models import NCN, TrainingEdges

BATCH = 1152  # of the published command


@register("ncnc_step", "NCNC training step on Cora, 1,152 links, against searched keys", step=5)
def _step(scale: float) -> dict[str, Callable[[], Pair]]:
    try:
        cora = data.load("cora-link")
    except GraphkitError as error:
        raise Skipped(f"Cora is not there: {error}") from None
    x, links = cora.graphs.x.float(), cora.positive_links("train").long()
    torch.manual_seed(0)
    ours = NCN(
        in_channels=x.size(1), hidden_channels=256, conv="puregcn", num_layers=1, jk=True,
        predictor="ncnc", use_xlin=True, tailact=True, alpha=1.0, pt=0.75, scale=4.3, offset=2.8,
    )  # fmt: skip
    peer = KeySearchNCNC(copy.deepcopy(ours))
    edges = TrainingEdges(links, x.size(0))
    current: dict[str, Tensor] = {}
    turn = [0]

    def prepare() -> None:
        generator = torch.Generator().manual_seed(turn[0] // 2)  # the same for both sides
        turn[0] += 1
        current["hidden"] = torch.randperm(links.size(1), generator=generator)[:BATCH]
        current["negative"] = torch.randint(x.size(0), (2, BATCH), generator=generator)

    def ours_score() -> tuple[Tensor, Tensor]:
        adj = edges.without(current["hidden"])
        h = ours.encode(x, adj)
        both = (links[:, current["hidden"]], current["negative"])
        one, other = (ours.score(h, adj, pairs) for pairs in both)
        return one, other

    def peer_score() -> tuple[Tensor, Tensor]:
        seen = torch.ones(links.size(1), dtype=torch.bool)
        seen[current["hidden"]] = False
        adj = peer.graph(links[:, seen], x.size(0))
        h = peer.encode(x, adj)
        both = (links[:, current["hidden"]], current["negative"])
        one, other = (peer.score(h, adj, pairs) for pairs in both)
        return one, other

    def trained(model: nn.Module, score: Callable[[], tuple[Tensor, Tensor]]) -> Step:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            positive, negative = score()
            loss = F.softplus(-positive).mean() + F.softplus(negative).mean()
            loss.backward()
            optimizer.step()
            return float(loss.detach())

        return step

    prepare()
    with torch.no_grad():
        for mine, theirs in zip(ours_score(), peer_score(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    return {
        "step": lambda: Pair(
            trained(ours, ours_score), trained(peer, peer_score), prepare, tolerance=None
        )
    }
