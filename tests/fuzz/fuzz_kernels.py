"""Throw random sizes, layouts, dtypes and corrupt graphs at the compiled kernels.

Every call must return or raise ``InputError`` or ``IndexError``; a read or write outside a tensor
ends the process when the kernels are built with AddressSanitizer. ``make fuzz`` does that::

    python tests/fuzz/fuzz_kernels.py --module build/asan/_cpu.so --seconds 60 --seed 0
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--module", type=Path, help="kernels built with -DGRAPHKIT_SANITIZE=ON")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=Path, help="file that always holds the case at hand")
    parser.add_argument("--only", help="one op, case --seed alone")
    return parser.parse_args()


def _load(path: Path) -> None:
    """Put another build of the kernels in the place of the one that graphkit would import."""
    spec = importlib.util.spec_from_file_location("graphkit.ops.cpu._cpu", path)
    assert spec is not None
    assert spec.loader is not None
    sys.setdlopenflags(os.RTLD_LAZY)  # OpenMP's functions are found once graphkit is imported
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[spec.name] = module


if __name__ == "__main__":
    OPTIONS = _options()
    if OPTIONS.module:
        _load(OPTIONS.module)

import fuzz_structures  # noqa: E402
from fuzz_source import DTYPES, Source, backward, leaf  # noqa: E402

from graphkit import ops  # noqa: E402
from graphkit.errors import InputError  # noqa: E402
from graphkit.ops import CSR, cpu  # noqa: E402
from graphkit.ops.extremum import extremum  # noqa: E402

REFUSALS = (InputError, IndexError)


def fuzz_aggregate(s: Source) -> None:
    csr, width, dtype = s.graph(), s.width(), s.random.choice(DTYPES)
    message = s.random.choice(ops.MESSAGES)
    reduces = s.random.sample(list(ops.REDUCES), s.random.choice([1, 1, 2, 4]))
    x, edge = leaf(s, s.features(csr.num_cols, width, dtype)), None
    lookup, rows = None, csr.num_entries
    if message != "copy" and s.chance(0.2):  # a table that the edges read
        rows = s.random.choice([1, 3, 40])
        lookup = torch.randint(rows + s.chance(0.1), (csr.num_entries,), generator=s.torch)
    if message == "scale" and s.chance(0.5):
        edge = torch.randn(rows, generator=s.torch).to(dtype)
    elif message == "scale":
        divisors = [h for h in (1, 2, 4, 8) if width % h == 0]
        edge = s.features(rows, s.random.choice(divisors), dtype)
    elif message != "copy":
        edge = s.features(rows, width, dtype)
    edge = None if edge is None else leaf(s, edge)
    if s.chance(0.3):
        s.corrupt(csr)
    out = ops.aggregate(csr, x, edge, lookup=lookup, message=message, reduce=reduces)
    backward(s, out, [t for t in (x, edge) if t is not None], csr)


def fuzz_extremum(s: Source) -> None:
    csr = s.graph()
    if s.chance(0.4):
        s.corrupt(csr)
    x = s.features(csr.num_cols, s.width(), s.random.choice(DTYPES[:2]))
    extremum(csr, x, s.random.choice(["min", "max"]))


def fuzz_segment(s: Source) -> None:
    counts = torch.randint(0, 9, (s.size(),), generator=s.torch)
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    if s.chance(0.3):
        ptr[s.random.randrange(ptr.numel())] += s.random.choice([-3, 1, 1000])
    x = s.features(int(counts.sum()), s.width(), s.random.choice(DTYPES))
    ops.segment(x, ptr, s.random.choice(ops.REDUCES))


def fuzz_gated(s: Source) -> None:
    csr, width, dtype = s.graph(), s.width(), s.random.choice(DTYPES)
    tensors = [
        leaf(s, s.features(rows, width, dtype))
        for rows in (csr.num_rows, csr.num_cols, csr.num_cols, csr.num_entries)
    ]
    if s.chance(0.3):
        s.corrupt(csr)
    out, _ = ops.gated_aggregate(csr, *tensors)
    backward(s, out, tensors, csr)


def fuzz_attention(s: Source) -> None:
    csr, dtype = s.graph(), s.random.choice(DTYPES)
    score = s.random.choice(["additive", "gatv2", "dot"])
    heads, width = s.random.choice([1, 2, 3, 8]), s.random.choice([1, 2, 5, 16, 20])
    each = heads if score == "additive" else heads * width
    value = leaf(s, s.features(csr.num_cols, heads * width, dtype))
    dst = leaf(s, s.features(csr.num_rows, each, dtype))
    src = leaf(s, s.features(csr.num_cols, each, dtype))
    edge = leaf(s, s.features(csr.num_entries, each, dtype)) if s.chance(0.5) else None
    att = torch.randn(heads * width, generator=s.torch) if score == "gatv2" else None
    if s.chance(0.3):
        s.corrupt(csr)
    out = ops.attention(
        csr, value, dst, src, edge, score=score, heads=heads,
        att=None if att is None else att.to(dtype), dropout=s.random.choice([0.0, 0.5]),
    )  # fmt: skip
    backward(s, out, [t for t in (value, dst, src, edge) if t is not None], csr)


def fuzz_batch_norm(s: Source) -> None:
    rows, width, dtype = s.size(), s.width(), s.random.choice(DTYPES[:2])
    x = leaf(s, s.features(rows, width, dtype))
    weight = torch.ones(width, dtype=dtype) if s.chance(0.5) else None
    if rows < 2 or not width:
        return  # torch's own, which has its own refusals
    out = ops.batch_norm(x, weight, None, None, None, training=True, relu=s.chance(0.5))
    if out.requires_grad:
        torch.autograd.grad(out, x, torch.randn_like(out))


def fuzz_layer_norm(s: Source) -> None:
    rows, width, dtype = s.size() * s.random.choice([1, 40]), s.width(), s.random.choice(DTYPES[:2])
    x = leaf(s, s.features(rows, width, dtype))
    weight, bias = (torch.randn(width, dtype=dtype) if s.chance(0.5) else None for _ in "wb")
    p, relu = s.random.choice([0.0, 0.3]), s.chance(0.5)
    if s.chance(0.3):  # a single row that ends anywhere
        x, weight, bias = x.reshape(-1), None, None
    out = ops.dropout(x, p, relu=relu)
    if x.numel() and s.chance(0.7):
        out = ops.layer_norm(x, weight, bias, p=p, relu=relu)
    if out.requires_grad:
        torch.autograd.grad(out, x, torch.randn_like(out))


def fuzz_sort(s: Source) -> None:
    csr = s.graph()
    edge_index = torch.randint(-1, 30, (2, s.size()), generator=s.torch)
    CSR.from_edge_index(edge_index, s.size(), validate=s.chance(0.5))
    if s.corrupt(csr):
        CSR(csr.rowptr, csr.col, csr.eid, csr.num_rows, csr.num_cols).transpose()


def _seeds(s: Source, csr: CSR) -> Tensor:
    limit = csr.num_rows + s.chance(0.1)  # at times one too many
    return torch.randint(max(limit, 1), (s.size() if csr.num_rows else 0,), generator=s.torch)


def fuzz_random_walk(s: Source) -> None:
    csr = s.graph(square=True)
    start = _seeds(s, csr)
    if s.chance(0.4):
        s.corrupt(csr)
    more = s.random.choice(
        [{}, {"p": 0.5, "q": 2.0}, {"restart": 0.3}, {"alpha": 1.5}, {"alpha": 40.0}]
    )
    ops.random_walk(
        csr, start, s.random.choice([0, 1, 7]), seed=s.random.getrandbits(64),
        return_edges=s.chance(0.5), **more,
    )  # fmt: skip


def fuzz_neighbor_sample(s: Source) -> None:
    csr = s.graph(square=True)
    start = _seeds(s, csr)
    if s.chance(0.4):
        s.corrupt(csr)
    fanouts = [s.random.choice([1, 3, 10, -1]) for _ in range(s.random.choice([1, 2, 3]))]
    if csr.num_entries > 1000 and -1 in fanouts:
        fanouts = fanouts[:1]  # a tree of whole rows grows by a factor of hundreds per hop
    ops.neighbor_sample(
        csr, start, fanouts, replace=s.chance(0.5), directed=s.chance(0.7), disjoint=s.chance(0.3),
        seed=s.random.getrandbits(64),
    )  # fmt: skip


def fuzz_ego_subgraphs(s: Source) -> None:
    csr = s.graph(square=True)
    if csr.num_entries > 1000:
        return
    centres = _seeds(s, csr)
    if s.chance(0.4):
        s.corrupt(csr)
    ops.ego_subgraphs(csr, centres, s.random.choice([0, 1, 2]))


TARGETS: dict[str, Callable[[Source], None]] = {
    name.removeprefix("fuzz_"): run
    for name, run in (list(globals().items()) + list(vars(fuzz_structures).items()))
    if name.startswith("fuzz_") and callable(run)
}


def fuzz(name: str, seed: int) -> bool:
    """Run one case; whether it was refused. Anything but a result or a refusal is raised."""
    source = Source(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(source.random.choice([1, 2]))
    try:
        TARGETS[name](source)
    except REFUSALS:
        return True
    return False


def main() -> None:
    options = OPTIONS
    if options.module:
        cpu.LARGE = 1 << 62  # from the sanitizer's malloc, which guards the ends of every block
    if options.only:
        print(options.only, options.seed, "refused" if fuzz(options.only, options.seed) else "ran")
        return
    runs: Counter[tuple[str, bool]] = Counter()
    end, seed = time.monotonic() + options.seconds, options.seed
    while time.monotonic() < end:
        for name in TARGETS:
            if options.case:  # before the call: after a crash it names what to repeat
                options.case.write_text(f"--only {name} --seed {seed}\n", encoding="utf-8")
            runs[name, fuzz(name, seed)] += 1
        seed += 1
    print(f"{'op':20} {'ran':>7} {'refused':>8}")
    for name in TARGETS:
        print(f"{name:20} {runs[name, False]:7d} {runs[name, True]:8d}")


if __name__ == "__main__":
    main()
