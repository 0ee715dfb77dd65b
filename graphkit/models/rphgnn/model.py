"""RpHGNN's encoder: a small network on what was propagated beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.errors import InputError
from graphkit.models.registry import register_model
from graphkit.nn.dense import dense
from graphkit.nn.dropout import Dropout

_FUSIONS = ("concat", "mean")


class SlotMix(nn.Module):
    r"""Linear combinations of the slots of a group, the same for all columns.

    .. math:: y_{b,f,d} = \beta_f + \sum_k W_{fk} x_{b,k,d}

    It is a convolution of kernel 1 over the slots, written as a small matrix product.

    Args:
        slots: ``K``.
        filters: ``f``.

    Shapes:
        - **x:** ``[B, K, D]``
        - **out:** ``[B, f * D]``, filter by filter

    Example:
        >>> SlotMix(slots=3, filters=2)(torch.ones(4, 3, 5)).shape
        torch.Size([4, 10])
    """

    def __init__(self, slots: int, filters: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(filters, slots))
        self.bias = nn.Parameter(torch.zeros(filters))
        nn.init.xavier_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.matmul(self.weight, x) + self.bias[:, None]
        return out.flatten(1)


class _Perceptron(nn.Module):
    """Linear, PReLU, Dropout for each width; the last without the two where it gives logits."""

    def __init__(self, widths: Sequence[int], dropout: float, logits: bool = False) -> None:
        super().__init__()
        layers = [nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
        self.layers = nn.ModuleList(layers)
        number = len(self.layers) - logits
        self.activations = nn.ModuleList(nn.PReLU(init=0.25) for _ in range(number))
        self.dropout = Dropout(dropout)
        for layer in layers:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = dense(layer, x)
            if number < len(self.activations):
                x = self.dropout(self.activations[number](x))
        return x


class GroupEncoder(nn.Module):
    """Input dropout, mix of the slots and perceptron of one group.

    Args:
        slots: ``K``.
        width: ``D``.
        hidden_channels: width of the result.
        num_layers: of the perceptron.
        filters: mixes of the slots; one is enough for a single slot.
        input_dropout: on the group itself.
        dropout: behind each layer.

    Shapes:
        - **x:** ``[B, K, D]`` of any floating type
        - **out:** float32 ``[B, hidden_channels]``

    Example:
        >>> encoder = GroupEncoder(3, 128, 512, num_layers=2)
        >>> sum(p.numel() for p in encoder.parameters())
        394250
    """

    def __init__(
        self,
        slots: int,
        width: int,
        hidden_channels: int,
        num_layers: int = 2,
        filters: int = 2,
        input_dropout: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        filters = 1 if slots == 1 else filters
        self.input_dropout = Dropout(input_dropout)
        self.mix = SlotMix(slots, filters)
        self.mlp = _Perceptron([filters * width, *[hidden_channels] * num_layers], dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.mix.weight.dtype)
        out: Tensor = self.mlp(self.mix(self.input_dropout(x)))
        return out


@register_model("rphgnn")
class RpHGNN(nn.Module):
    r"""Classify nodes from the groups of :class:`RpHGNNPropagation`.

    Hu, Hooi, He: "Efficient Heterogeneous Graph Learning via Random Projection", IEEE TKDE 2024
    (arXiv 2310.14481). Each group has an encoder of its own; what they give is concatenated, or
    averaged, and mapped to the classes. There are no normalisation layers, so a node's logits do
    not depend on what else is in its batch.

    Args:
        groups: ``(K_g, D_g)`` of each group: slots and width.
        out_channels: ``C``.
        hidden_channels: width of everything between.
        group_layers: layers of each group's perceptron.
        head_layers: layers of the map to the classes.
        filters: mixes of the slots of a group.
        fusion: ``"concat"`` or ``"mean"``.
        input_dropout: on the groups.
        dropout: behind each layer but the last.

    Shapes:
        - **groups:** list of ``[B, K_g, D_g]``, or a batch that has it as ``groups``
        - **out:** ``[B, C]``

    Raises:
        InputError: arguments out of range, or groups of other shapes.

    Example:
        >>> model = RpHGNN(groups=[[5, 4231], [5, 334]], out_channels=4, hidden_channels=512)
        >>> sum(p.numel() for p in model.parameters())
        5727777
    """

    name = "rphgnn"

    def __init__(
        self,
        groups: Sequence[Sequence[int]],
        out_channels: int,
        hidden_channels: int = 512,
        group_layers: int = 2,
        head_layers: int = 2,
        filters: int = 2,
        fusion: str = "concat",
        input_dropout: float = 0.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        shapes = [[int(n) for n in group] for group in groups]
        if not shapes or any(len(shape) != 2 or min(shape) < 1 for shape in shapes):
            raise InputError(f"groups: {shapes}, wanted at least one pair of slots and width")
        counts = {
            "out_channels": out_channels, "hidden_channels": hidden_channels,
            "group_layers": group_layers, "head_layers": head_layers, "filters": filters,
        }  # fmt: skip
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}: {value!r}, wanted an integer of at least 1")
        for name, share in (("input_dropout", input_dropout), ("dropout", dropout)):
            if not 0 <= share < 1:
                raise InputError(f"{name}: {share}, wanted at least 0 and less than 1")
        if fusion not in _FUSIONS:
            raise InputError(f"fusion: {fusion!r}, wanted 'concat' or 'mean'")
        self.config: dict[str, Any] = {
            "groups": shapes, **counts, "fusion": fusion, "input_dropout": input_dropout,
            "dropout": dropout,
        }  # fmt: skip
        self.fusion = fusion
        self.encoders = nn.ModuleList(
            GroupEncoder(
                slots, width, hidden_channels, group_layers, filters, input_dropout, dropout
            )
            for slots, width in shapes
        )
        fused = hidden_channels * (len(shapes) if fusion == "concat" else 1)
        widths = [fused, *[hidden_channels] * (head_layers - 1), out_channels]
        self.head = _Perceptron(widths, dropout, logits=True)

    def forward(self, groups: Any) -> Tensor:
        tensors: Sequence[Tensor] = getattr(groups, "groups", groups)
        wanted = self.config["groups"]
        seen = [list(tensor.shape[1:]) for tensor in tensors]
        if seen != wanted:
            raise InputError(f"groups: [slots, width] are {seen}, wanted {wanted}")
        encoded = [encoder(tensor) for encoder, tensor in zip(self.encoders, tensors, strict=True)]
        if self.fusion == "concat":
            fused = torch.cat(encoded, dim=1)
        else:
            fused = torch.stack(encoded).mean(0)
        out: Tensor = self.head(fused)
        return out
