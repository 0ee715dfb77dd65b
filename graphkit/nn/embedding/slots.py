"""Where a virtual weight lives in a shared flat array, and with which sign: computed, not kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphkit.errors import InputError, nearest

MAPPINGS = ("hashednet", "robe", "roast", "randomfold")
PRIME = 2038074743


@dataclass(frozen=True)
class Placement:
    """Where the weights of one table begin among all that share an array.

    Attributes:
        offset: number of virtual weights before this table.
        rows, columns: its shape.
    """

    offset: int
    rows: int
    columns: int


@dataclass(frozen=True)
class SlotMap:
    r"""The map :math:`\phi` from virtual weights to the slots of an array of ``size`` numbers.

    ==============  ============================================================================
    ``hashednet``   :math:`(c_0 v + c_1 v^2 + c_2 \bmod P) \bmod M`
    ``robe``        :math:`((c_0\,row + c_1 \lfloor col/Z \rfloor + c_2) \bmod P) \bmod (M-Z+1)
                    + col \bmod Z`
    ``roast``       the same with ``row + off`` and ``col//Z + off + n``, modulo :math:`M-Z`
    ``randomfold``  :math:`(h(\lfloor v/M \rfloor) + v \bmod M) \bmod M`: every run of M weights is
                    a cyclic shift, and at M = number of weights nothing is lost
    ==============  ============================================================================

    HashedNet: Chen et al., ICML 2015; ROBE: Desai et al., MLSys 2022; ROAST: Desai et al., ICML
    2023; random folds: STABLE-RPS, Desai and Shrivastava, ICLR 2024.

    Attributes:
        mapping: one of the above.
        size: ``M``.
        block: ``Z``, the run of columns that stay together, of ``robe`` and ``roast``.
        constants: int64 ``[6]``: three for the slot, three for the sign.
        folds: int64 ``[ceil(total / M)]``, ``h`` of each fold (``randomfold``).
        signed: whether weights have random signs.

    Raises:
        InputError: an unknown mapping, no slot, more slots than the prime, a block that does not
            fit.

    Example:
        >>> fold = SlotMap("randomfold", 4, 1, torch.ones(6).long(), torch.tensor([1, 0, 3]), False)
        >>> where = Placement(0, 10, 1)
        >>> fold.slots(where, torch.arange(10)).flatten().tolist()
        [1, 2, 3, 0, 0, 1, 2, 3, 3, 0]
    """

    mapping: str
    size: int
    block: int
    constants: Tensor
    folds: Tensor
    signed: bool = True

    def __post_init__(self) -> None:
        check_mapping(self.mapping, self.size, self.block)

    def slots(self, place: Placement, rows: Tensor) -> Tensor:
        """Slots int64 ``[len(rows), columns]`` of some rows of a table."""
        columns = torch.arange(place.columns, device=rows.device)
        c0, c1, c2 = self.constants[:3].unbind()
        if self.mapping in ("robe", "roast"):
            shift = place.offset if self.mapping == "roast" else 0
            chunk = columns // self.block + (shift + place.rows if self.mapping == "roast" else 0)
            span = self.size - self.block + (self.mapping == "robe")
            left = (c0 * ((rows + shift) % PRIME)) % PRIME
            right = (c1 * (chunk % PRIME) + c2) % PRIME
            start = (left[:, None] + right) % PRIME % span
            return start + columns % self.block
        virtual = self._virtual(place, rows, columns)
        if self.mapping == "hashednet":
            return _quadratic(virtual, c0, c1, c2) % self.size
        return (self.folds[virtual // self.size] + virtual % self.size) % self.size

    def signs(self, place: Placement, rows: Tensor) -> Tensor:
        """Signs -1 and 1, float32, of the same weights."""
        columns = torch.arange(place.columns, device=rows.device)
        if not self.signed:
            return torch.ones(len(rows), place.columns, device=rows.device)
        hashed = _quadratic(self._virtual(place, rows, columns), *self.constants[3:6].unbind())
        return (1 - 2 * (hashed >> 8 & 1)).float()

    @staticmethod
    def _virtual(place: Placement, rows: Tensor, columns: Tensor) -> Tensor:
        return place.offset + rows[:, None] * place.columns + columns


def draw_constants(seed: int) -> Tensor:
    """Six odd constants below the prime.

    Example:
        >>> bool((draw_constants(0) % 2 == 1).all())
        True
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randint(0, PRIME // 2, (6,), generator=generator, device="cpu") * 2 + 1


def draw_folds(constants: Tensor, total: int, size: int) -> Tensor:
    """``h`` of each fold of ``size`` among ``total`` weights.

    Example:
        >>> draw_folds(draw_constants(0), 10, 4).shape
        torch.Size([3])
    """
    count = -(-total // size)
    return _quadratic(torch.arange(count, device=constants.device), *constants[:3].unbind()) % size


def check_mapping(mapping: str, size: int, block: int) -> None:
    """Refuse a mapping that cannot be computed.

    Raises:
        InputError: names the argument.
    """
    if mapping not in MAPPINGS:
        raise InputError(
            f"store: {mapping!r} is not one of {', '.join(MAPPINGS)}{nearest(mapping, MAPPINGS)}"
        )
    if not 1 <= size <= PRIME:
        raise InputError(f"size: {size} slots, wanted 1..{PRIME}; take a larger ratio")
    if mapping in ("robe", "roast"):
        least = block + (mapping == "roast")
        if block < 1 or size < least:
            raise InputError(
                f"block: {block}, but the array has {size} slots and {mapping} wants at least "
                f"{max(least, 1)}; take a smaller block or a larger ratio"
            )


def _quadratic(value: Tensor, c0: Tensor, c1: Tensor, c2: Tensor) -> Tensor:
    """``c0 v + c1 v^2 + c2 mod P``, every product below 2^62."""
    value = value % PRIME
    return ((c0 * value) % PRIME + (c1 * (value * value % PRIME)) % PRIME + c2) % PRIME
