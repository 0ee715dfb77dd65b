"""The registry: what is measured, on which inputs, against which peer, and the figure to reach.

A case is a pair of steps, ours and a peer's. A rate stands alone: what one step moves or computes,
by its time, beside what a large copy moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.graphs import EDGES, FEATURES, NODES, power_law_edges

Step = Callable[[], Any]


@dataclass
class Pair:
    """Two ways to the same numbers. A step returns everything that it computes for the caller."""

    ours: Step
    peer: Step
    prepare: Callable[[], None] = lambda: None  # before every step, outside the clock
    tolerance: float | None = 1e-3  # None: compared elsewhere (training steps change weights)


@dataclass
class Case:
    """One row of the report: ``build(scale)`` gives a pair of steps for each mode."""

    name: str
    title: str
    build: Callable[[float], dict[str, Callable[[], Pair]]]
    goals: dict[str, float] = field(default_factory=dict)  # mode -> wanted ratio of times
    memory: bool = True


@dataclass
class Work:
    """A step, and how much of ``unit`` it does: "bytes", "flop", or things that it makes."""

    step: Step
    amount: float
    unit: str = "bytes"


@dataclass
class Rate:
    """One row of the table of rates."""

    name: str
    title: str
    build: Callable[[float], Work]
    group: str  # a name that --only takes for all of its rates
    goal: float | None = None  # units per second
    threads: int | None = None  # instead of the run's


CASES: dict[str, Case] = {}
RATES: dict[str, Rate] = {}


class Skipped(Exception):
    """A peer that is not installed here: the row says so and is no failure."""


def register(name: str, title: str, memory: bool = True, **goals: float) -> Callable[[Any], Any]:
    def add(build: Callable[[float], dict[str, Callable[[], Pair]]]) -> Any:
        CASES[name] = Case(name, title, build, goals, memory)
        return build

    return add


def register_rate(
    name: str, title: str, group: str, goal: float | None = None, threads: int | None = None
) -> Callable[[Any], Any]:
    def add(build: Callable[[float], Work]) -> Any:
        RATES[name] = Rate(name, title, build, group, goal, threads)
        return build

    return add


def graph_inputs(scale: float, edge_features: bool = False) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    nodes, edges = max(50, int(NODES * scale)), max(200, int(EDGES * scale)) // 2 * 2
    edge_index = power_law_edges(nodes, edges)
    x = torch.randn(nodes, FEATURES)
    if not edge_features:
        return x, edge_index
    return x, edge_index, torch.randn(edges, FEATURES)


def as_tuple(out: Any) -> tuple[Tensor, ...]:
    return out if isinstance(out, tuple) else (out,)


def layer_modes(
    ours: nn.Module, peer: nn.Module, x: Tensor, *rest: Tensor, same_names: bool = True
) -> dict[str, Callable[[], Pair]]:
    """Forward, and forward+backward to every floating input and every parameter.

    The two get the same parameters; under other names their makers have seen to that, and only
    outputs and the gradients of inputs are compared, in which all of them show.
    """
    if same_names:
        peer.load_state_dict(ours.state_dict())

    def forward(layer: nn.Module) -> Step:
        def step() -> Any:
            with torch.no_grad():
                return as_tuple(layer(x, *rest))

        return step

    def both(layer: nn.Module, cotangents: list[Tensor]) -> Step:
        leaves = [t.detach().requires_grad_() if t.is_floating_point() else t for t in (x, *rest)]
        wanted = [t for t in leaves if t.requires_grad]
        inputs = len(wanted)
        wanted += layer.parameters()

        def step() -> Any:
            out = as_tuple(layer(*leaves))
            found = torch.autograd.grad(out, wanted, cotangents)
            return *(o.detach() for o in out), *(found if same_names else found[:inputs])

        return step

    def backward_pair() -> Pair:
        with torch.no_grad():
            shapes = [o.shape for o in as_tuple(ours(x, *rest))]
        cotangents = [torch.randn(shape) for shape in shapes]
        # Sums over up to 5 million terms (gradients of weights) in another order.
        return Pair(both(ours, cotangents), both(peer, cotangents), tolerance=2e-2)

    return {
        "forward": lambda: Pair(forward(ours), forward(peer)),
        "forward+backward": backward_pair,
    }


def select(pattern: str) -> Iterator[Case]:
    """The cases of these comma-separated names; a trailing ``*`` takes all that begin so."""
    for name, case in CASES.items():
        if _matches(pattern, name):
            yield case


def select_rates(pattern: str) -> Iterator[Rate]:
    """The same of the rates, by their own names or that of their group."""
    for name, rate in RATES.items():
        if _matches(pattern, name) or _matches(pattern, rate.group):
            yield rate


def _matches(pattern: str, name: str) -> bool:
    words = [word.strip() for word in pattern.split(",") if word.strip()]
    return not words or any(
        word == name or (word.endswith("*") and name.startswith(word[:-1])) for word in words
    )
