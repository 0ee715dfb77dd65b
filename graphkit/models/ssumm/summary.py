"""A summary graph: what it holds, how large it is, and how far it is from its graph."""

from __future__ import annotations

import io
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphkit.errors import CorruptFileError, InputError
from graphkit.models.ssumm import text_file
from graphkit.models.ssumm.queries import SummaryQueries
from graphkit.models.ssumm.simple_graph import simple_graph
from graphkit.storage import atomic_write_bytes, atomic_write_text

# Text takes some ten times its size to read, the other forms no more than what they hold.
_MAX_BYTES = {".txt": 1 << 28, ".npz": 1 << 34, ".safetensors": 1 << 34}


class SummaryGraph(SummaryQueries):
    r"""A partition of the nodes, and how many edges there are between and inside its parts.

    The graph it stands for has :math:`\hat A_{uv} = d_{AB} = w_{AB} / N_{AB}` for :math:`u \in A`,
    :math:`v \in B`, :math:`u \ne v`, where :math:`N_{AB} = |A| |B|`, or :math:`|A| (|A| - 1) / 2`
    for :math:`A = B`; without a superedge :math:`\hat A_{uv} = 0`. Queries never unpack it.

    Args:
        owner: int64 ``[n]`` the supernode of each node, every one of ``0..S-1`` in use.
        super_index: int64 ``[2, P]`` superedges, the first row not smaller than the second.
        weight: int64 ``[P]`` edges of each, ``1..N_AB``.
        num_edges: of the graph, or ``None`` where it is not known: errors cannot be told then.
        ids: int64 ``[n]`` what the nodes are called in files; 0..n-1 by default.

    Raises:
        InputError: not a summary as above.

    Example:
        >>> owner, ends = torch.tensor([0, 0, 1, 1]), torch.tensor([[0, 1, 1], [0, 0, 1]])
        >>> path = SummaryGraph(owner, ends, torch.ones(3, dtype=torch.int64), num_edges=3)
        >>> path.bits, path.re1, round(path.re2, 6)
        (10.0, 0.25, 0.102062)
    """

    def __init__(
        self,
        owner: Tensor,
        super_index: Tensor,
        weight: Tensor,
        *,
        num_edges: int | None = None,
        ids: Tensor | None = None,
    ) -> None:
        _integers("owner", owner, (None,))
        _integers("super_index", super_index, (2, None))
        _integers("weight", weight, (super_index.size(1),))
        if owner.numel() < 2:
            raise InputError(f"owner: {owner.numel()} nodes, wanted at least 2")
        if int(owner.min()) < 0 or int(owner.max()) >= owner.numel():
            raise InputError(f"owner: {int(owner.min())}..{int(owner.max())}, wanted 0..S-1")
        owner, super_index, weight = (
            part.long().contiguous() for part in (owner, super_index, weight)
        )
        size = torch.bincount(owner)
        if bool((size == 0).any()):
            raise InputError(f"owner: nothing in supernode {int((size == 0).nonzero()[0])}")
        a, b = super_index
        if a.numel() and (int(b.min()) < 0 or int(a.max()) >= len(size) or bool((a < b).any())):
            raise InputError(f"super_index: wanted {len(size) - 1} >= first row >= second row >= 0")
        if len(torch.unique(a * len(size) + b)) != a.numel():
            raise InputError("super_index: a superedge twice")
        pairs = torch.where(a == b, size[a] * (size[a] - 1) // 2, size[a] * size[b])
        bad = (weight < 1) | (weight > pairs)
        if bool(bad.any()):
            at = int(bad.nonzero()[0])
            raise InputError(
                f"weight: {int(weight[at])} for superedge {int(a[at])}-{int(b[at])} of "
                f"{int(pairs[at])} pairs, wanted 1..{int(pairs[at])}"
            )
        total = int(weight.sum())
        if num_edges is not None and num_edges < total:
            raise InputError(f"num_edges: {num_edges}, wanted at least the {total} of superedges")
        bare = owner.numel() * (owner.numel() - 1) // 2 - int(pairs.sum())
        if num_edges is not None and num_edges - total > bare:
            raise InputError(
                f"num_edges: {num_edges}, wanted at most {total + bare}: {total} in superedges, "
                f"and the {bare} pairs elsewhere"
            )
        if ids is not None:
            _integers("ids", ids, (owner.numel(),))
            if len(torch.unique(ids)) != len(ids):
                raise InputError("ids: one occurs twice")
        self.owner, self.super_index, self.weight = owner, super_index, weight
        self.sizes, self.pairs = size, pairs
        self.num_edges, self.ids = num_edges, ids

    # -- figures ----------------------------------------------------------------------------------

    @property
    def num_nodes(self) -> int:
        """``|V|``"""
        return self.owner.numel()

    @property
    def num_supernodes(self) -> int:
        """``|S|``"""
        return self.sizes.numel()

    @property
    def num_superedges(self) -> int:
        """``|P|``"""
        return self.weight.numel()

    @property
    def largest_weight(self) -> int:
        """``omega_max``; 0 without superedges."""
        return int(self.weight.max()) if self.num_superedges else 0

    @property
    def bits(self) -> float:
        """Size: ``|P| (2 log |S| + log omega_max) + |V| log |S|``."""
        log_s = math.log2(self.num_supernodes)
        per_edge = 2 * log_s + math.log2(max(self.largest_weight, 1))
        return self.num_superedges * per_edge + self.num_nodes * log_s

    @property
    def graph_bits(self) -> float:
        """Size of the graph itself: ``2 |E| log |V|``."""
        return 2 * self._edges() * math.log2(self.num_nodes)

    @property
    def data_bits(self) -> float:
        """What the graph still costs given the summary: entropies, and edges no superedge covers.

        With :attr:`bits` it makes up the description length that merging lowers.
        """
        w, pairs = self.weight.double(), self.pairs.double()
        entropy = torch.special.xlogy(w, pairs / w)
        rest = pairs - w
        entropy = entropy + torch.special.xlogy(rest, pairs / rest.clamp(min=1))
        apart = self._edges() - int(self.weight.sum())
        return float(entropy.sum()) / math.log(2) + 2 * apart * math.log2(self.num_nodes)

    @property
    def absolute_error(self) -> float:
        """Sum over ordered pairs of ``|A - A_hat|``."""
        w, d = self.weight.double(), self.density
        inside = w * (1 - d) + (self.pairs - w) * d
        return 2 * (float(inside.sum()) + self._edges() - int(self.weight.sum()))

    @property
    def squared_error(self) -> float:
        """Sum over ordered pairs of ``(A - A_hat)^2``."""
        w = self.weight.double()
        return 2 * (float((w - w * self.density).sum()) + self._edges() - int(self.weight.sum()))

    @property
    def re1(self) -> float:
        """:attr:`absolute_error` over ``|V| (|V| - 1)``."""
        return self.absolute_error / (self.num_nodes * (self.num_nodes - 1))

    @property
    def re2(self) -> float:
        """The root of :attr:`squared_error` over ``|V| (|V| - 1)``, as it is published."""
        return math.sqrt(self.squared_error) / (self.num_nodes * (self.num_nodes - 1))

    @property
    def density(self) -> Tensor:
        """float64 ``[P]``: ``d_AB`` of each superedge."""
        return self.weight.double() / self.pairs

    def _edges(self) -> int:
        if self.num_edges is None:
            raise InputError(
                "num_edges: not known, as the text format does not keep it; check(graph) finds it"
            )
        return self.num_edges

    def check(self, graph: Any, **inputs: Any) -> SummaryGraph:
        """Count the edges of every superedge in the graph itself.

        Args:
            graph: what was summarised, in the order of the summary's nodes.
            inputs: ``num_nodes``, ``symmetrise``, ``ignore_weights``; see :meth:`SSumM.fit`.

        Returns:
            This summary, with the graph's number of edges.

        Raises:
            InputError: another number of nodes, or a weight that is not the true count.
        """
        csr = simple_graph(graph, **inputs)
        if csr.num_rows != self.num_nodes:
            raise InputError(f"graph: {csr.num_rows} nodes, wanted {self.num_nodes}")
        ends = self.owner[torch.stack([csr.row().long(), csr.col.long()])]
        ends = ends[:, csr.row().long() > csr.col]
        key = ends.amax(0) * self.num_supernodes + ends.amin(0)
        wanted = self.super_index[0] * self.num_supernodes + self.super_index[1]
        key = key.sort().values
        count = torch.searchsorted(key, wanted, right=True) - torch.searchsorted(key, wanted)
        if not torch.equal(count, self.weight):
            at = int((count != self.weight).nonzero()[0])
            raise InputError(
                f"weight: {int(self.weight[at])} for superedge {self.super_index[:, at].tolist()}, "
                f"but the graph has {int(count[at])} edges there"
            )
        return SummaryGraph(
            self.owner, self.super_index, self.weight, num_edges=csr.num_entries // 2, ids=self.ids
        )

    # -- files ------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``.txt``, the format of SSumM's authors, or ``.npz`` or ``.safetensors``.

        Raises:
            InputError: another kind of file.
            StorageError: it cannot be written.
        """
        file = Path(path)
        check_suffix(file)
        if file.suffix == ".txt":
            ids = torch.arange(self.num_nodes) if self.ids is None else self.ids
            text = text_file.write(self.owner, self.super_index, self.weight, ids)
            atomic_write_text(file, text)
            return
        tensors = {
            "owner": self.owner, "super_index": self.super_index, "weight": self.weight,
            "num_edges": torch.tensor([-1 if self.num_edges is None else self.num_edges]),
        }  # fmt: skip
        if self.ids is not None:
            tensors["ids"] = self.ids.contiguous()
        if file.suffix == ".safetensors":
            from safetensors.torch import save

            atomic_write_bytes(file, save(tensors))
            return
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {name: t.numpy() for name, t in tensors.items()}
        np.savez_compressed(buffer, **arrays)
        atomic_write_bytes(file, buffer.getvalue())

    @staticmethod
    def load(
        path: str | os.PathLike[str],
        *,
        num_edges: int | None = None,
        own_ids: bool = False,
        max_bytes: int | None = None,
    ) -> SummaryGraph:
        """Read what :meth:`save`, or the program of SSumM's authors, has written.

        Args:
            path: ``.txt``, ``.npz`` or ``.safetensors``.
            num_edges: of the graph, which a ``.txt`` does not tell.
            own_ids: members of a ``.txt`` are ids that may leave gaps, rather than exactly 0..n-1;
                nodes are then numbered in ascending order of their ids.
            max_bytes: size of the file, unpacked, at most; by default 256 MiB of ``.txt`` and 16
                GiB of the others.

        Raises:
            InputError: a file of another kind, size or content, members that repeat or are missing,
                a superedge of an unknown supernode, or one with more edges than pairs.

        Example:
            >>> import pathlib, tempfile
            >>> file = pathlib.Path(tempfile.mkdtemp()) / "summary.txt"
            >>> SummaryGraph(torch.tensor([0, 0]), torch.tensor([[0], [0]]),
            ...     torch.tensor([1])).save(file)
            >>> SummaryGraph.load(file).bits
            0.0
        """
        file = Path(path)
        check_suffix(file)
        if not file.is_file():
            raise InputError(f"path: {file}, no such file")
        _check_size(file, _MAX_BYTES[file.suffix] if max_bytes is None else max_bytes)
        if file.suffix == ".txt":
            owner, super_index, weight, ids = text_file.read(file, own_ids)
            return SummaryGraph(owner, super_index, weight, num_edges=num_edges, ids=ids)
        try:
            if file.suffix == ".npz":
                with np.load(file, allow_pickle=False) as held:
                    tensors = {name: torch.from_numpy(held[name]) for name in held.files}
            else:
                from safetensors.torch import load

                tensors = load(file.read_bytes())
            edges = int(tensors["num_edges"])
            parts = [tensors[name] for name in ("owner", "super_index", "weight")]
        except Exception as error:  # damaged archives have many kinds of errors
            raise CorruptFileError(f"{file}: not a summary graph ({error})") from None
        known = num_edges if edges < 0 else edges
        return SummaryGraph(*parts, num_edges=known, ids=tensors.get("ids"))

    def __repr__(self) -> str:
        return (
            f"SummaryGraph({self.num_nodes:,} nodes, {self.num_supernodes:,} supernodes, "
            f"{self.num_superedges:,} superedges, {self.bits:,.1f} bits)"
        )


def check_suffix(file: Path) -> None:
    """Refuse a name that no summary is written to."""
    if file.suffix not in (".txt", ".npz", ".safetensors"):
        raise InputError(
            f"summary: {file.name}, wanted a name that ends in .txt, .npz or .safetensors"
        )


def _check_size(file: Path, most: int) -> None:
    size = file.stat().st_size
    if file.suffix == ".npz" and zipfile.is_zipfile(file):
        try:
            with zipfile.ZipFile(file) as opened:
                size = max(size, sum(member.file_size for member in opened.infolist()))
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise CorruptFileError(f"{file}: not a summary graph ({error})") from None
    if size > most:
        raise InputError(f"path: {file} holds {size:,} bytes, wanted at most max_bytes={most:,}")


def _integers(name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> None:
    fits = isinstance(tensor, Tensor) and tensor.dtype in (torch.int32, torch.int64)
    fits = fits and tensor.dim() == len(shape)
    if not fits or any(w is not None and s != w for s, w in zip(tensor.shape, shape, strict=True)):
        seen = (tensor.dtype, list(tensor.shape)) if isinstance(tensor, Tensor) else type(tensor)
        raise InputError(f"{name}: {seen}, wanted int64 {list(shape)}")
