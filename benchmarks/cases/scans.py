"""Recurrences along sequences, against plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.cases.registry import Pair, layer_modes, register
from benchmarks.graphs import FEATURES
from graphkit.ops import selective_scan


class Scan(peers.ScanLoop):
    """The same on packed sequences in one kernel."""

    def forward(self, u: Tensor, delta: Tensor, B: Tensor, C: Tensor) -> Tensor:
        ptr = torch.arange(self.sequences + 1) * (u.size(0) // self.sequences)
        return selective_scan(u, delta, self.A, B, C, self.D, seq_ptr=ptr)


@register(
    "selective_scan", "selective scan against a torch loop, 64 sequences of 256, 128 x 16 states",
    **{"forward": 20, "forward+backward": 20},
)  # fmt: skip
def _selective_scan(scale: float) -> dict[str, Callable[[], Pair]]:
    return _against(peers.ScanLoop, scale)


@register(
    "selective_scan_einsum", "the same against Mamba's own plain torch: all factors, then the loop",
    **{"forward": 20, "forward+backward": 20},
)  # fmt: skip
def _selective_scan_einsum(scale: float) -> dict[str, Callable[[], Pair]]:
    return _against(peers.ScanEinsum, scale)


def _against(loop: type[peers.ScanLoop], scale: float) -> dict[str, Callable[[], Pair]]:
    torch.manual_seed(0)
    sequences, steps, states = max(2, int(64 * scale)), 256, 16
    ours, peer = (layer(FEATURES, states, sequences) for layer in (Scan, loop))
    inputs = [torch.randn(sequences * steps, n) for n in (FEATURES, FEATURES, states, states)]
    return layer_modes(ours, peer, *inputs)
