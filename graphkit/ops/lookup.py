"""Edge tables: from an entry of a CSR to the row of the table that its edge reads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops.csr import CSR

_INT32_MAX = 2**31 - 1
_RECENT = 4  # lookups remembered per graph; more would hold on to every step's


class _Composed(NamedTuple):
    """What one lookup of a graph comes to: its range, and entry -> edge -> table row both ways."""

    lookup: Tensor  # kept alive, so that identity is a safe key
    version: int
    low: int
    high: int
    forward: Tensor
    backward: Tensor | None


def through(
    csr: CSR, lookup: Tensor, transposed: bool, table_rows: int = _INT32_MAX
) -> tuple[Tensor, Tensor | None]:
    """Compose entry -> edge -> table row, remembered with the CSR (all layers share a lookup)."""
    if torch.compiler.is_compiling():
        return _compose(csr, lookup, transposed)
    version = 0 if lookup.is_inference() else lookup._version
    recent: list[_Composed] = csr.derived.setdefault("lookups", [])  # type: ignore[assignment]
    kept = next((c for c in recent if c.lookup is lookup and c.version == version), None)
    if kept is None or (transposed and kept.backward is None):
        low, high = (int(v) for v in torch.aminmax(lookup)) if lookup.numel() else (0, -1)
        recent[:] = [c for c in recent if c is not kept]
        kept = _Composed(lookup, version, low, high, *_compose(csr, lookup, transposed))
        recent.append(kept)
        del recent[:-_RECENT]
    if kept.low < 0 or kept.high >= table_rows:
        value = kept.low if kept.low < 0 else kept.high
        place = int((lookup == value).nonzero()[0])
        raise InputError(f"lookup: {value} at edge {place}, wanted 0..{table_rows - 1}")
    return kept.forward, kept.backward


def _compose(csr: CSR, lookup: Tensor, transposed: bool) -> tuple[Tensor, Tensor | None]:
    # What does not fit into the narrower type must stay out of range, not wrap around into it.
    dtype = csr.col.dtype
    table = lookup if lookup.dtype == dtype else lookup.clamp(-1, torch.iinfo(dtype).max).to(dtype)
    forward = table.contiguous() if csr.eid is None else table[csr.eid]
    if not transposed:
        return forward, None
    eid_t = csr.transpose().eid
    return forward, table.contiguous() if eid_t is None else table[eid_t]
