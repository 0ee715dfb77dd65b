"""Graph summaries in plain Python: the definition that the compiled merging has to agree with."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import numpy.typing as npt

from graphkit.ops.reference_sampling import after, unit

Ints = npt.NDArray[np.int64]
_ROUNDING = 1e-12  # equal reductions: the pair drawn first wins


def entropy(pairs: int, weight: int) -> float:
    """``N H(w / N)`` in bits."""
    rest = pairs - weight
    if not rest:
        return 0.0
    logs = [x * math.log2(x) if x else 0.0 for x in (pairs, weight, rest)]
    return logs[0] - logs[1] - logs[2]


class ReferenceSummariser:
    """One summary in the making; see :func:`graphkit.ops.summarise.summariser` for the arguments.

    ``weight[a][b]`` counts the edges of block {a, b}, ``joined`` holds the blocks that are
    superedges. Everything else is counted anew whenever it is asked for.
    """

    def __init__(
        self, rowptr: Ints, col: Ints, budget: float, p: int, iterations: int, num_hashes: int,
        max_group: int, effort: int, seed: int, compat: bool,
    ) -> None:  # fmt: skip
        self.n = len(rowptr) - 1
        self.rowptr, self.col = rowptr, col
        self.budget, self.p, self.iterations, self.compat = budget, p, iterations, compat
        self.num_hashes, self.max_group, self.effort = num_hashes, max_group, effort
        self.seed = seed
        self.weight: dict[int, dict[int, int]] = {
            v: {int(u): 1 for u in col[rowptr[v] : rowptr[v + 1]]} for v in range(self.n)
        }
        self.joined = {(a, b) for a, row in self.weight.items() for b in row if a >= b}
        self.size = dict.fromkeys(range(self.n), 1)
        self.owner = np.arange(self.n)
        self.edge_bits = 2 * math.log2(self.n)
        self.iteration = 0
        self.groups: list[list[int]] = []
        self.group = 0
        self.members: list[int] = []
        self.skips = self.limit = self.draws = self.merges = self.trials = self.key = 0
        self.log: list[tuple[int, int, int, int, int, int, int, float]] = []
        self.done = self.fits()

    # -- figures ----------------------------------------------------------------------------------

    def num_supernodes(self) -> int:
        """``|S|``"""
        return len(self.size)

    def num_superedges(self) -> int:
        """``|P|``"""
        return len(self.joined)

    def largest_weight(self) -> int:
        """``omega_max`` of the superedges."""
        return max((self.weight[a][b] for a, b in self.joined), default=0)

    def _bits(self, supernodes: int) -> float:
        logs = math.log2(supernodes), math.log2(max(self.largest_weight(), 1))
        return len(self.joined) * (2 * logs[0] + logs[1]) + self.n * logs[0]

    def bits(self) -> float:
        """Size of the summary as it is."""
        return self._bits(len(self.size))

    def bare(self) -> list[int]:
        """Supernodes without a superedge."""
        seen = {end for pair in self.joined for end in pair}
        return [a for a in self.size if a not in seen]

    def fits(self) -> bool:
        """Whether what :meth:`finish` makes is within the budget."""
        if self.compat:
            return self.bits() <= self.budget
        bare = len(self.bare())
        return self._bits(len(self.size) - bare + (bare > 0)) <= self.budget

    def progress(self) -> float:
        """0..1, of the iterations."""
        part = self.group / len(self.groups) if self.groups else 1.0
        return 1.0 if self.done else max(self.iteration - 1 + part, 0) / self.iterations

    def _base(self) -> float:
        return 2 * math.log2(len(self.size)) + math.log2(max(self.largest_weight(), 1))

    def _pairs(self, a: int, b: int) -> int:
        size = self.size[a]
        return size * (size - 1) // 2 if a == b else size * self.size[b]

    def _joins(self, pairs: int, weight: int, base: float) -> bool:
        if self.p == 1 and 2 * weight < pairs:
            return False
        return base + entropy(pairs, weight) <= self.edge_bits * weight

    def _block(self, a: int, b: int, base: float) -> float:
        """What the block costs with the choice that was made for it."""
        weight = self.weight[a].get(b, 0)
        if (max(a, b), min(a, b)) in self.joined:
            return base + entropy(self._pairs(a, b), weight)
        return self.edge_bits * weight

    def cost(self, a: int) -> float:
        """Of all blocks that touch ``a``."""
        base = self._base()
        return math.fsum(self._block(a, b, base) for b in self.weight[a])

    def _merged(self, a: int, b: int) -> dict[int, int]:
        """Weights of the supernode that merging would make; its loop stands under ``a``."""
        both = Counter(self.weight[a])
        both.update(self.weight[b])
        loop = sum(self.weight[x].get(y, 0) for x, y in ((a, a), (a, b), (b, b)))
        row = {x: w for x, w in both.items() if x not in (a, b)}
        return row | {a: loop} if loop else row

    def reduction(self, a: int, b: int) -> float:
        """``rho(a, b)``"""
        base = self._base()
        before = self.cost(a) + self.cost(b) - self._block(a, b, base)
        if before <= 1e-9 * (self.cost(a) + self.cost(b)):
            return -1.0
        size, costs = self.size[a] + self.size[b], []
        for x, weight in self._merged(a, b).items():
            pairs = size * (size - 1) // 2 if x == a else size * self.size[x]
            joined = self._joins(pairs, weight, base)
            costs.append(base + entropy(pairs, weight) if joined else self.edge_bits * weight)
        return 1.0 - math.fsum(costs) / before

    # -- the loop ---------------------------------------------------------------------------------

    def merge(self, kept: int, gone: int) -> None:
        """Fold ``gone`` into ``kept`` and decide its blocks anew."""
        base = self._base()
        row = self._merged(kept, gone)
        for end in (kept, gone):
            for x in self.weight[end]:
                self.joined.discard((max(end, x), min(end, x)))
                if x not in (kept, gone):
                    del self.weight[x][end]
        del self.weight[gone]
        self.size[kept] += self.size.pop(gone)
        self.weight[kept] = row
        self.owner[self.owner == gone] = kept
        for x, weight in row.items():
            self.weight[x][kept] = weight
            if self._joins(self._pairs(kept, x), weight, base):
                self.joined.add((max(kept, x), min(kept, x)))

    def shingle(self, level: int) -> dict[int, int]:
        """The least hash over the closed neighbourhoods of each supernode's members."""
        key = after(after(self.seed, 2 * self.iteration), level)
        nodes = np.arange(self.n, dtype=np.uint64)
        value = after(np.uint64(key), nodes)
        least = value.copy()
        np.minimum.at(least, np.repeat(np.arange(self.n), np.diff(self.rowptr)), value[self.col])
        found = dict.fromkeys(self.size, 2**64)
        for v, a in enumerate(self.owner):
            found[int(a)] = min(found[int(a)], int(least[v]))
        return found

    def candidate_groups(self) -> list[list[int]]:
        """Runs of equal shingles, cut where they are too long; groups of one are left out."""
        groups = [sorted(self.size)]
        for level in range(self.num_hashes):
            shingle, finer = self.shingle(level), []
            for group in groups:
                if level and len(group) <= self.max_group:
                    finer.append(group)
                    continue
                by_value: dict[int, list[int]] = {}
                for a in sorted(group, key=lambda a: (shingle[a], a)):
                    by_value.setdefault(shingle[a], []).append(a)
                finer.extend(by_value.values())
            groups = finer
        cut = [g[i : i + self.max_group] for g in groups for i in range(0, len(g), self.max_group)]
        return [g for g in cut if len(g) > 1]

    def _round(self, threshold: float) -> bool:
        size, best, found = len(self.members), -1.0, (0, 0)
        key = after(self.key, self.draws)
        self.draws += 1
        every = not self.compat and size * (size - 1) // 2 <= size * self.effort
        pairs = list(itertools.combinations(range(size), 2)) if every else []
        for i in range(0 if every else size * self.effort):
            first = min(int(unit(key, 2 * i) * size), size - 1)
            second = min(int(unit(key, 2 * i + 1) * (size - 1)), size - 2)
            pairs.append((first, second + (second >= first)))
        for first, second in pairs:
            self.trials += 1
            rho = self.reduction(self.members[first], self.members[second])
            if rho > best + _ROUNDING:
                best, found = rho, (first, second)
                # But for the block between the two, merging saves no more than the cheaper's cost.
                if not self.compat and best >= 0.5 - _ROUNDING:
                    break
        if best < threshold - _ROUNDING:
            self.skips = self.limit if every else self.skips + 1
            return False
        self.skips = 0
        first, second = found
        degree = [sum(x != a for x in self.weight[a]) for a in self.members]
        if degree[first] < degree[second]:
            first, second = second, first
        self.merge(self.members[first], self.members[second])
        self.members[second] = self.members[-1]
        self.members.pop()
        self.merges += 1
        return True

    def _end_iteration(self) -> None:
        self.log.append(
            (self.iteration, len(self.groups), self.merges, self.trials, len(self.size),
             len(self.joined), self.largest_weight(), self.bits())
        )  # fmt: skip

    def advance(self, work: int, merges: int) -> bool:
        """Go on by at most ``merges`` merges; True at the end."""
        while not self.done and merges > 0:
            if len(self.members) >= 2 and self.skips < self.limit:
                last = self.iteration == self.iterations
                if self._round(0.0 if last else 1 / (1 + self.iteration)):
                    merges -= 1
                    if self.fits():
                        self.done = True
                        self._end_iteration()
            elif self.group < len(self.groups):
                self.members = list(self.groups[self.group])
                self.key = after(after(self.seed, 2 * self.iteration + 1), self.group)
                self.group += 1
                self.draws = self.skips = 0
                limit = math.ceil(math.log2(math.ceil(math.log2(len(self.members)))))
                self.limit = limit if self.compat else max(limit, 1)
            else:
                if self.iteration:
                    self._end_iteration()
                if self.iteration == self.iterations:
                    self.done = True
                    break
                self.iteration += 1
                self.groups, self.group, self.members = self.candidate_groups(), 0, []
                self.merges = self.trials = 0
        return self.done

    def finish(self) -> None:
        """Leave superedges only, pool supernodes that have none, drop superedges to the budget."""
        if len(self.size) == self.n and self.bits() <= self.budget:
            return
        loss = {}
        for a, b in self.joined:
            w, pairs = self.weight[a][b], self._pairs(a, b)
            loss[a, b] = w * (2 * w / pairs - 1) if self.p == 1 else w * w / pairs
        order = sorted(self.joined, key=lambda pair: (loss[pair], pair))
        bare = len(self.bare())
        while self._bits(len(self.size) - bare + (bare > 0)) > self.budget:
            self.joined.remove(order.pop(0))
            bare = len(self.bare())
        pool = sorted(self.bare())
        for a in pool[1:]:
            self.owner[self.owner == a] = pool[0]
            self.size[pool[0]] += self.size.pop(a)

    def rounds(self) -> list[tuple[int, int, int, int, int, int, int, float]]:
        """Per iteration: groups, merges, trials, ``|S|``, ``|P|``, ``omega_max``, bits."""
        return self.log

    def owners(self) -> Ints:
        """``[n]`` the supernode of each node, by the id of one of its members."""
        return self.owner.copy()

    def blocks(self) -> Ints:
        """``[4, K]``: a, b (not larger), weight, and whether it is a superedge."""
        rows = [
            (a, b, w, (a, b) in self.joined)
            for a, row in self.weight.items() for b, w in row.items() if a >= b
        ]  # fmt: skip
        return np.asarray(sorted(rows), np.int64).reshape(-1, 4).T
