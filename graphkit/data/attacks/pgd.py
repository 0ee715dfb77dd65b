"""PGDAttack: projected gradient ascent on relaxed edge flips."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.data.attacks.structure import StructureAttack, Victim, absent_pairs, edges_of
from graphkit.data.attacks.surrogate import (
    evaluating,
    fingerprint,
    labels_seen_by,
    logits_of,
    trained_surrogate,
)
from graphkit.errors import InputError, nearest

LOSSES = ("ce", "cw")
LABELS = ("predicted", "true")
_MOST = 1 << 23  # pairs of nodes that are relaxed at once: about 2 GB
_BISECTIONS = 80  # halves any start interval of float64 down to its resolution


def project(s: Tensor, budget: float) -> Tensor:
    r"""The nearest point of :math:`\{0 \le s \le 1, \sum s \le b\}` (Xu et al., Proposition 1).

    :math:`\mathrm{clamp}(s - \mu, 0, 1)` with the smallest :math:`\mu \ge 0` whose sum is at most
    the budget, found by bisection.

    Example:
        >>> project(torch.tensor([2.0, 0.5, -1.0]), 1.0).tolist()
        [1.0, 0.0, 0.0]
    """
    inside = s.clamp(0.0, 1.0)
    if float(inside.sum(dtype=torch.float64)) <= budget:
        return inside
    low, high = 0.0, float(s.max())
    active = s[s > 0.0]
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if float((active - middle).clamp_(0.0, 1.0).sum(dtype=torch.float64)) > budget:
            low = middle
            active = active[active > low]  # the others stay 0 for every larger shift
        else:
            high = middle
    return (s - high).clamp_(0.0, 1.0)


class PGDAttack(StructureAttack):
    r"""Flip the edges that raise a surrogate's loss, found by projected gradient ascent.

    "Topology Attack and Defense for Graph Neural Networks: An Optimization Perspective" (Xu et
    al., IJCAI 2019, arXiv 1906.04214). With a variable :math:`s` per pair of nodes,

    .. math::
        A'(s) = A + (1 - 2A) \odot s, \qquad
        s \leftarrow \Pi \Big( s + \tfrac{\eta}{\sqrt t} \nabla_s L(A'(s)) \Big), \qquad
        \Pi \text{ onto } \{0 \le s \le 1, \textstyle\sum s \le b\}

    and the flips are the best of ``samples`` draws from :math:`s`. The paper keeps draws of at
    most :math:`b` flips; here a draw with too many loses random ones and one with too few gets the
    largest :math:`s` left, so that exactly :math:`b` pairs are flipped. The :math:`b` largest
    :math:`s` compete, too.

    The gradient goes through the weights of the candidate edges, without a dense matrix; a step
    costs two sweeps over all candidates. Nodes outside ``train_mask`` are attacked.

    Args:
        rate: flips per undirected edge, from 0 to 1.
        steps: iterations of ascent.
        lr: :math:`\eta`.
        loss: ``ce`` for cross-entropy; ``cw`` for the margin of Carlini and Wagner,
            :math:`\max_{c \ne y} z_c - z_y`, cut off at 0.
        labels: ``predicted``: attacked nodes count by the surrogate's predictions on the clean
            graph, all that a poisoner knows; ``true``: by their classes.
        samples: draws of the binary flips.
        candidates: number of random pairs without an edge that may get one, beside all edges;
            all pairs when not given.
        seed: decides what is drawn.
        surrogate: module ``(x, edge_index, edge_weight) -> logits`` that is differentiable in
            ``edge_weight``; when not given, a two-layer GCN is trained on the training nodes.

    Shapes:
        - **x:** float ``[N, F]``, **y:** integer ``[N]``, **train_mask:** bool ``[N]``

    Raises:
        InputError: an argument is out of range; the graph is directed, not simple, or has no
            features, labels or training nodes; too many pairs for no ``candidates``; the
            surrogate returns something else than logits or ignores edge weights.

    Example:
        >>> from torch_geometric.data import Data
        >>> data = Data(x=torch.eye(4), y=torch.tensor([0, 0, 1, 1]),
        ...     edge_index=torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]]),
        ...     train_mask=torch.tensor([True, False, True, False]))
        >>> PGDAttack(0.5, steps=10)(data).num_edges in (2, 6)  # one edge more or less
        True
    """

    reads_split: ClassVar[bool] = True

    def __init__(
        self,
        rate: float,
        steps: int = 200,
        lr: float = 200.0,
        loss: str = "ce",
        labels: str = "predicted",
        samples: int = 20,
        candidates: int | None = None,
        seed: int = 0,
        surrogate: nn.Module | None = None,
    ) -> None:
        for name, value, least in (("steps", steps, 1), ("samples", samples, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name}: {value!r}, wanted a whole number from {least}")
        if not 0 < lr < math.inf:
            raise InputError(f"lr: {lr}, wanted a positive number")
        if loss not in LOSSES:
            raise InputError(f"loss: {loss!r}, wanted one of {LOSSES}{nearest(str(loss), LOSSES)}")
        if labels not in LABELS:
            raise InputError(
                f"labels: {labels!r}, wanted one of {LABELS}{nearest(str(labels), LABELS)}"
            )
        if candidates is not None and (type(candidates) is not int or candidates < 1):
            raise InputError(f"candidates: {candidates!r}, wanted a whole number from 1")
        super().__init__(
            rate, seed, steps=steps, lr=lr, loss=loss, labels=labels, samples=samples,
            candidates=candidates, **fingerprint(surrogate),
        )  # fmt: skip
        self.steps, self.lr, self.loss, self.labels = steps, lr, loss, labels
        self.samples, self.candidates, self.surrogate = samples, candidates, surrogate

    def flips(self, victim: Victim, budget: int, generator: torch.Generator) -> Tensor:
        """Ascend, draw, keep the best draw."""
        _, attacked = victim.split()
        numbers = self._candidates(victim, budget, generator)
        surrogate = self.surrogate
        if surrogate is None:
            surrogate = trained_surrogate(victim, generator)
        with evaluating(surrogate):
            labels = victim.classes()
            if self.labels == "true":
                victim.refuse_unlabelled(attacked, "attacked")
            else:
                now = edges_of(victim.pairs, victim.num_nodes)
                labels = labels_seen_by(victim, surrogate, now)
            ascent = _Ascent(victim, numbers, surrogate, attacked, labels[attacked], self.loss)
            s, gradient = ascent.run(budget, self.steps, self.lr)
            chosen = ascent.best_draw(s, gradient, budget, self.samples, generator)
        return numbers[chosen]

    def _candidates(self, victim: Victim, budget: int, generator: torch.Generator) -> Tensor:
        nodes = victim.num_nodes
        total = nodes * (nodes - 1) // 2
        if self.candidates is None:
            if total > _MOST:
                raise InputError(
                    f"candidates: {nodes} nodes have {total} pairs, more than {_MOST} at once; "
                    "give a number, for example candidates=1_000_000"
                )
            u, v = torch.triu_indices(nodes, nodes, 1, device=victim.pairs.device)
            return u * nodes + v
        count = min(self.candidates, total - len(victim.pairs))
        numbers = torch.cat([victim.pairs, absent_pairs(victim, count, generator)])
        if len(numbers) < budget:
            raise InputError(f"candidates: {self.candidates}, wanted more for {budget} flips")
        return numbers.sort().values


class _Ascent:
    """The relaxed problem: loss and gradient of flips ``s`` of the candidate pairs."""

    def __init__(
        self,
        victim: Victim,
        numbers: Tensor,
        surrogate: nn.Module,
        attacked: Tensor,
        labels: Tensor,
        loss: str,
    ) -> None:
        self.victim, self.surrogate = victim, surrogate
        self.attacked, self.labels, self.kind = attacked, labels, loss
        u, v = numbers // victim.num_nodes, numbers % victim.num_nodes
        # One tensor for all steps: the ops sort it once.
        self.edge_index = torch.stack([torch.cat([u, v]), torch.cat([v, u])])
        self.present = torch.isin(numbers, victim.pairs).to(victim.features().dtype)

    def loss(self, s: Tensor) -> Tensor:
        weight = self.present + (1.0 - 2.0 * self.present) * s
        both = torch.cat([weight, weight])
        logits = logits_of(self.surrogate, self.victim, self.edge_index, both)[self.attacked]
        if self.kind == "ce":
            return F.cross_entropy(logits, self.labels)
        own = logits.gather(1, self.labels.unsqueeze(1))
        others = logits.scatter(1, self.labels.unsqueeze(1), -math.inf)
        # Nodes that are wrong already need no more flips.
        return (others.amax(1) - own.squeeze(1)).clamp(max=0.0).mean()

    def run(self, budget: int, steps: int, lr: float) -> tuple[Tensor, Tensor]:
        s = torch.zeros_like(self.present)
        gradient = s
        for step in range(1, steps + 1):
            variable = s.clone().requires_grad_()
            with torch.enable_grad():
                loss = self.loss(variable)
                if not loss.requires_grad:
                    raise InputError("surrogate: its logits do not depend on edge_weight")
                found = torch.autograd.grad(loss, variable, allow_unused=True)[0]
            if found is None or not bool(torch.isfinite(found).all()):
                seen = "no gradient" if found is None else "a gradient that is not finite"
                raise InputError(f"surrogate: edge_weight gets {seen} from its logits")
            gradient = found
            s = project(s + lr / math.sqrt(step) * gradient, budget)
        return s, gradient

    @torch.no_grad()
    def best_draw(
        self, s: Tensor, gradient: Tensor, budget: int, samples: int, generator: torch.Generator
    ) -> Tensor:
        """Positions of the ``budget`` flips of the draw with the highest loss."""
        by_gradient = gradient.argsort(descending=True, stable=True)
        rank = by_gradient[s[by_gradient].argsort(descending=True, stable=True)]
        best, highest = rank[:budget], -math.inf
        chance = s[rank].cpu()
        for number in range(samples + 1):
            if number == 0:
                chosen = rank[:budget]
            else:
                drawn = torch.rand(len(chance), generator=generator) < chance
                hits, rest = drawn.nonzero().flatten(), (~drawn).nonzero().flatten()
                if len(hits) > budget:
                    hits = hits[torch.randperm(len(hits), generator=generator)]
                hits = torch.cat([hits, rest])[:budget]
                chosen = rank[hits.to(rank.device)]
            binary = torch.zeros_like(s)
            binary[chosen] = 1.0
            value = float(self.loss(binary))
            if value > highest:
                best, highest = chosen, value
        return best
