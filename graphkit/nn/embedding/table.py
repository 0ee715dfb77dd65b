"""Embedding tables in which several ids share a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from graphkit import ops
from graphkit.errors import InputError
from graphkit.nn.embedding.codes import Codes
from graphkit.ops import CSR

_memo: Any = WeakTensorKeyDictionary()


class EmbeddingTable(nn.Module):
    """A drop-in for ``nn.Embedding`` that keeps fewer numbers than ``n x d``.

    Attributes:
        num_embeddings: ``n``.
        embedding_dim: ``d``.
    """

    num_embeddings: int
    embedding_dim: int

    def materialize(self) -> Tensor:
        """All vectors ``[n, d]``, with gradients."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """All vectors, as ``nn.Embedding`` calls them; assigning to them has no effect."""
        return self.materialize()

    @property
    def num_parameters(self) -> int:
        """How many numbers are learnt."""
        return sum(p.numel() for p in self.parameters())

    @property
    def full_parameters(self) -> int:
        """How many an uncompressed table would learn."""
        return self.num_embeddings * self.embedding_dim

    def extra_repr(self) -> str:
        return (
            f"{self.num_embeddings}, {self.embedding_dim}, "
            f"parameters={self.num_parameters} of {self.full_parameters}"
        )


class CodedEmbedding(EmbeddingTable):
    """Looks ids up through codes: ``e(id) = sum_j T[codes[id, j]]``.

    Args:
        codes: rows of each id; see :mod:`graphkit.nn.embedding.codes`.
        store: the table of ``K`` rows: an ``nn.Embedding`` or any :class:`EmbeddingTable`.

    Shapes:
        - **ids:** int64 ``[...]``
        - **output:** ``[..., d]``

    Raises:
        InputError: the store has another number of rows than the codes name; loading codes or
            weights of another size.

    Example:
        >>> table = CodedEmbedding(Codes(torch.tensor([0, 1, 0]), 2), nn.Embedding(2, 4))
        >>> bool((table(torch.tensor([0])) == table(torch.tensor([2]))).all())
        True
        >>> table.num_parameters, table.full_parameters
        (8, 12)
    """

    def __init__(self, codes: Codes, store: nn.Module) -> None:
        super().__init__()
        rows = int(store.num_embeddings)  # type: ignore[arg-type]
        if rows != codes.num_rows:
            raise InputError(f"store: {rows} rows, but the codes name {codes.num_rows}")
        self.codes: Tensor
        self.register_buffer("codes", codes.rows.clone())
        self.store = store
        self.num_embeddings = len(codes.rows)
        self.embedding_dim = int(store.embedding_dim)  # type: ignore[arg-type]

    def forward(self, ids: Tensor) -> Tensor:
        chosen = self.codes[ids]
        if self.codes.dim() == 1:
            chosen = chosen[..., None]
        first, *others = chosen.unbind(-1)
        out: Tensor = self.store(first)
        for part in others:
            out = out + self.store(part)
        return out

    def materialize(self) -> Tensor:
        whole: Tensor = self.store.weight  # type: ignore[assignment]
        # The gradient of a row is summed by one owner, over the ids that share it.
        return ops.aggregate(self._structure(), whole)

    def _structure(self) -> CSR:
        version = 0 if self.codes.is_inference() else self.codes._version
        entry = _memo.get(self.codes)
        if entry is None or entry[0] != version:
            codes = self.codes.reshape(self.num_embeddings, -1)
            ptr = torch.arange(self.num_embeddings + 1, device=codes.device) * codes.size(1)
            rows = int(self.store.num_embeddings)  # type: ignore[arg-type]
            csr = CSR(ptr, codes.flatten().contiguous(), None, self.num_embeddings, rows)
            entry = (version, csr)
            _memo[self.codes] = entry
        found: CSR = entry[1]
        return found

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        codes = state.get(f"{prefix}codes")
        if codes is not None:
            if codes.shape != self.codes.shape:
                raise InputError(
                    f"{prefix}codes: saved for {list(codes.shape)}, this table has "
                    f"{list(self.codes.shape)} (ids, hashes)"
                )
            Codes(codes.long(), int(self.store.num_embeddings))  # type: ignore[arg-type]
        weight = state.get(f"{prefix}store.weight")
        own = getattr(self.store, "_parameters", {}).get("weight")
        if weight is not None and own is not None and weight.shape != own.shape:
            raise InputError(
                f"{prefix}store.weight: saved with {list(weight.shape)}, this table has "
                f"{list(own.shape)}; were the codes made from other pairs or another resolution?"
            )
        super()._load_from_state_dict(state, prefix, *rest)
