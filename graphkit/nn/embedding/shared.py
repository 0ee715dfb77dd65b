"""Tables and layers whose weights are read from one small array through a hash (STABLE-RPS)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.errors import InputError, nearest
from graphkit.nn.embedding.slots import (
    Placement,
    SlotMap,
    check_mapping,
    draw_constants,
    draw_folds,
)
from graphkit.nn.embedding.table import EmbeddingTable

GRAD_SCALES = ("v1", "v2", "v3", "v4", "v5", "none")
_ELEMENTS = 1 << 18  # virtual weights whose slots are looked at together


class SharedArray(nn.Module):
    r"""The array ``w`` that virtual weights are read from: :math:`W_v = \lambda g_v w_{\phi(v)}`.

    Desai and Shrivastava, ICLR 2024 (arXiv 2310.11611). Slots and signs are computed where they
    are needed, so nothing of the size of the virtual weights is kept.

    Args:
        total: number of virtual weights of all tables that join.
        ratio: ``M = floor(ratio * total)``, in (0, 1].
        mapping: see :class:`~graphkit.nn.embedding.SlotMap`.
        block: of ``robe`` and ``roast``.
        init_scale: ``a``: the array begins uniform in ``-a..a``.
        exact_std: divide by the deviation of that draw, ``a / sqrt(3)``, where the publication
            divides by ``a``, so that tables begin with the deviation they would have had.
        signed: whether weights have random signs.
        seed: of the hash.

    Attributes:
        weight: ``[M]``.

    Raises:
        InputError: a ratio outside (0, 1], a block that does not fit, or no slot.

    Example:
        >>> array = SharedArray(1000, 0.1)
        >>> table = SharedEmbedding(100, 10, array, std=0.1)
        >>> table(torch.tensor([3, 5])).shape, table.num_parameters
        (torch.Size([2, 10]), 100)
    """

    def __init__(
        self,
        total: int,
        ratio: float,
        mapping: str = "randomfold",
        block: int = 1,
        init_scale: float = 0.05,
        exact_std: bool = False,
        signed: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        number = isinstance(ratio, (int, float)) and not isinstance(ratio, bool)
        if not number or not 0 < ratio <= 1:
            raise InputError(f"ratio: {ratio!r}, wanted a number in (0, 1]")
        if not 0 < init_scale < math.inf:
            raise InputError(f"init_scale: {init_scale}, wanted a positive number")
        size = num_slots(ratio, total)
        check_mapping(mapping, size, block)
        self.total, self.mapping, self.block, self.signed = total, mapping, block, signed
        self.init_scale, self.exact_std = init_scale, exact_std
        self.used = 0
        constants = draw_constants(seed)
        self.constants: Tensor
        self.folds: Tensor
        self.register_buffer("constants", constants)
        self.register_buffer("folds", draw_folds(constants, total, size))
        self.weight = nn.Parameter(torch.empty(size).uniform_(-init_scale, init_scale))
        self._members: list[tuple[Placement, float]] = []

    @property
    def slot_map(self) -> SlotMap:
        """The map as it stands."""
        return SlotMap(
            self.mapping, len(self.weight), self.block, self.constants, self.folds, self.signed
        )

    def join(self, rows: int, columns: int, std: float) -> tuple[Placement, float]:
        """Give the next ``rows x columns`` virtual weights to a table; returns also its scale.

        Raises:
            InputError: the array was made for fewer weights.
        """
        if self.used + rows * columns > self.total:
            raise InputError(
                f"total: the array is for {self.total} weights, {self.used} are taken and "
                f"{rows} x {columns} more do not fit"
            )
        place = Placement(self.used, rows, columns)
        self.used += rows * columns
        scale = std / (self.init_scale / math.sqrt(3.0) if self.exact_std else self.init_scale)
        self._members.append((place, scale))
        return place, scale

    @torch.no_grad()
    def load_of_slots(self) -> tuple[Tensor, Tensor, Tensor]:
        """For each slot: number of weights on it, sum of their scales, sum of squared scales."""
        slots = self.slot_map
        count = torch.zeros(len(self.weight), dtype=torch.float64, device=self.weight.device)
        first, second = count.clone(), count.clone()
        for place, scale in self._members:
            step = max(_ELEMENTS // place.columns, 1)
            for start in range(0, place.rows, step):
                rows = torch.arange(start, min(start + step, place.rows), device=self.weight.device)
                own = torch.bincount(
                    slots.slots(place, rows).flatten(), minlength=len(self.weight)
                ).double()
                count += own
                first += scale * own
                second += scale * scale * own
        return count, first, second

    def grad_divisor(self, variant: str = "v1") -> Tensor:
        r"""What gradients of the slots are divided by: :math:`10^{-6} + \Gamma_k`.

        ========  ===============================================
        ``v1``    :math:`(\sum \lambda)^2 / (n_k + 10^{-3})`
        ``v2``    :math:`\sum \lambda`
        ``v3``    :math:`\sum \lambda / (n_k + 10^{-3})`
        ``v4``    :math:`\sqrt{\sum \lambda^2}`
        ``v5``    :math:`\sum \lambda^2`
        ``none``  1
        ========  ===============================================

        With equal scales, ``v1`` makes a step of SGD move every virtual weight by the learning rate
        times the mean signed gradient of its slot. A slot without weights is divided by 1.

        Raises:
            InputError: an unknown variant.
        """
        if variant not in GRAD_SCALES:
            raise InputError(
                f"grad_scale: {variant!r} is not one of {', '.join(GRAD_SCALES)}"
                f"{nearest(variant, GRAD_SCALES)}"
            )
        if variant == "none":
            return torch.ones_like(self.weight)
        count, first, second = self.load_of_slots()
        gamma = {
            "v1": first.square() / (count + 1e-3),
            "v2": first,
            "v3": first / (count + 1e-3),
            "v4": second.sqrt(),
            "v5": second,
        }[variant]
        return torch.where(count > 0, gamma + 1e-6, 1.0).to(self.weight.dtype)

    def extra_repr(self) -> str:
        return f"{len(self.weight)} slots for {self.total} weights, {self.mapping}"

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        for key, own in (("weight", self.weight), ("folds", self.folds)):
            saved = state.get(f"{prefix}{key}")
            if saved is not None and saved.shape != own.shape:
                raise InputError(
                    f"{prefix}{key}: saved with {list(saved.shape)}, this array has "
                    f"{list(own.shape)}; it was made with another ratio or other tables"
                )
        super()._load_from_state_dict(state, prefix, *rest)


class _Rows(torch.autograd.Function):
    """Rows of a virtual table; only their ids are kept for backward."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, rows: Tensor, slots: SlotMap, place: Placement, scale: float
    ) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.about = (slots, place, scale, weight)
        out = weight.new_empty(len(rows), place.columns)
        step = max(_ELEMENTS // place.columns, 1)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            read = weight[slots.slots(place, part)]
            out[start : start + step] = read * slots.signs(place, part).to(weight.dtype) * scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (rows,) = ctx.saved_tensors
        slots, place, scale, weight = ctx.about
        summed = torch.zeros_like(weight)
        step = max(_ELEMENTS // place.columns, 1)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            signs = slots.signs(place, part).to(weight.dtype)
            value = grads[0][start : start + step] * signs * scale
            summed.index_add_(0, slots.slots(place, part).flatten(), value.flatten())
        return summed, None, None, None, None


class _Virtual(nn.Module):
    """A virtual matrix ``[rows, columns]`` in an array, its own or one that the model holds."""

    def __init__(self, rows: int, columns: int, array: SharedArray, std: float, own: bool) -> None:
        super().__init__()
        self.place, self.scale = array.join(rows, columns, std)
        self.num_rows, self.num_columns = rows, columns
        # Kept with the weights, because the order of modules decides it.
        self.register_buffer("layout", torch.tensor([self.place.offset, rows, columns]))
        self.register_buffer("scales", torch.tensor([self.scale], dtype=torch.float64))
        # A tuple is no submodule: an array of several tables is saved once, by its holder.
        self._array = (array,)
        if own:
            self.array = array

    def read(self, rows: Tensor) -> Tensor:
        array = self._array[0]
        out: Tensor = _Rows.apply(  # type: ignore[no-untyped-call]
            array.weight, rows, array.slot_map, self.place, self.scale
        )
        return out

    def all_rows(self) -> Tensor:
        return self.read(torch.arange(self.num_rows, device=self._array[0].weight.device))

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        layout = state.get(f"{prefix}layout")
        if layout is not None:
            offset, rows, columns = (int(v) for v in layout)
            if (rows, columns) != (self.num_rows, self.num_columns):
                raise InputError(
                    f"{prefix}layout: saved for {rows} x {columns} weights, this table has "
                    f"{self.num_rows} x {self.num_columns}"
                )
            total = self._array[0].total
            if not 0 <= offset <= total - rows * columns:
                raise InputError(
                    f"{prefix}layout: saved at weight {offset}, the array is for {total} weights"
                )
            before = (self.place, self.scale)
            self.place = Placement(offset, rows, columns)
            self.scale = float(state.get(f"{prefix}scales", torch.tensor([self.scale])))
            members = self._array[0]._members
            if before in members:
                members[members.index(before)] = (self.place, self.scale)
        super()._load_from_state_dict(state, prefix, *rest)


class SharedEmbedding(EmbeddingTable):
    """An embedding table that is read from a :class:`SharedArray`.

    Args:
        num_embeddings: ``n``.
        embedding_dim: ``d``.
        array: what it is read from.
        std: deviation that the table would have had at the start.
        own: the array belongs to this table alone and is saved with it; else whoever shares it
            among tables holds it as a submodule.

    Shapes:
        - **ids:** int64 ``[...]``
        - **output:** ``[..., d]``

    Example:
        >>> array = SharedArray(12, 1.0, signed=False)
        >>> table = SharedEmbedding(4, 3, array, std=0.05, own=True)
        >>> bool((table.weight.flatten().sort().values == array.weight.sort().values).all())
        True
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        array: SharedArray,
        std: float = 1.0,
        own: bool = True,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.virtual = _Virtual(num_embeddings, embedding_dim, array, std, own)

    @property
    def array(self) -> SharedArray:
        """What the table is read from."""
        return self.virtual._array[0]

    @property
    def num_parameters(self) -> int:
        """Size of the array, which other tables may share."""
        return self.array.weight.numel()

    def forward(self, ids: Tensor) -> Tensor:
        _check_ids(ids, self.num_embeddings)
        flat = self.virtual.read(ids.reshape(-1))
        return flat.reshape(*ids.shape, self.embedding_dim)

    def materialize(self) -> Tensor:
        return self.virtual.all_rows()


class SharedLinear(nn.Module):
    """A linear layer whose matrix is read from a :class:`SharedArray`; the bias is its own.

    Args:
        in_features, out_features, bias: as for ``nn.Linear``.
        array: what the matrix is read from.
        std: deviation that the matrix would have had at the start.
        own: save the array with this layer.

    Example:
        >>> layer = SharedLinear(4, 2, array=SharedArray(8, 0.5), std=0.1)
        >>> layer(torch.ones(3, 4)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: Tensor | None = None,
        *,
        array: SharedArray,
        std: float,
        own: bool = False,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.virtual = _Virtual(out_features, in_features, array, std, own)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    @property
    def array(self) -> SharedArray:
        """What the matrix is read from."""
        return self.virtual._array[0]

    @property
    def weight(self) -> Tensor:
        """The matrix ``[out, in]``, with gradients."""
        return self.virtual.all_rows()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def num_slots(ratio: float, total: int) -> int:
    """Size of the array for ``total`` virtual weights.

    Example:
        >>> num_slots(0.1, 1000)
        100
    """
    # 0.29 * 100 is a little below 29 in binary; the product of decimals is meant.
    return math.floor(ratio * total + 1e-9)


def _check_ids(ids: Tensor, size: int) -> None:
    if torch.compiler.is_compiling() or not ids.numel() or ids.device.type != "cpu":
        return
    low, high = (int(v) for v in torch.aminmax(ids))
    if low < 0 or high >= size:
        raise InputError(f"ids: {low if low < 0 else high}, wanted 0..{size - 1}")
