"""NCN's encoder: one GNN over the whole graph, with or without weights in its convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.errors import InputError, nearest
from graphkit.models.ncn.adjacency import drop_adj, own_transpose
from graphkit.models.ncn.sparse_features import drop_and_map
from graphkit.nn.dense import dense
from graphkit.nn.dropout import Dropout
from graphkit.nn.norm_act import chain
from graphkit.ops import CSR, aggregate

# name -> (reduce, whether the convolution has weights)
CONVS = {
    "puregcn": ("gcn", False),
    "puresum": ("sum", False),
    "puremean": ("mean", False),
    "puremax": ("max", False),
    "gcn": ("gcn", True),
    "gcn_cached": ("gcn", True),
    "sage": ("mean", True),
    "gin": ("sum", True),
    "max": ("max", True),
}


class AdjConv(nn.Module):
    r"""One convolution over a CSR whose entries all have the same weight ``value``.

    .. math::
        \text{gcn:} \quad x_i' = s_i \Big( \sum_{j \in N(i)} A_{ij} s_j y_j + s_i y_i \Big) + b,
        \qquad s_i = \Big(1 + \sum_j A_{ij}\Big)^{-1/2}

    with :math:`y = x` and :math:`b = 0` for the ``pure`` kinds, :math:`y = W x` for the others. The
    other kinds reduce :math:`A_{ij} y_j` without a self term; despite their names ``sage`` and
    ``gin`` are no SAGEConv and GINConv. What ``gcn`` needs of a graph is kept with that graph, so
    ``gcn_cached``, the published code's name, is the same here and never out of date.

    Args:
        in_channels, out_channels: equal for the ``pure`` kinds.
        kind: a key of ``CONVS``.

    Shapes:
        - **x:** ``[N, in_channels]``
        - **out:** ``[N, out_channels]``

    Raises:
        InputError: an unknown kind, or a pure one that would have to change the width.

    Example:
        >>> from graphkit.models.ncn.adjacency import adjacency
        >>> path = adjacency(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), 3)
        >>> AdjConv(1, 1, "puregcn")(torch.tensor([[1.0], [2.0], [4.0]]), path).view(-1)
        tensor([1.3165, 2.7079, 2.8165])
    """

    def __init__(self, in_channels: int, out_channels: int, kind: str) -> None:
        super().__init__()
        if kind not in CONVS:
            raise InputError(
                f"conv: {kind!r} is not one of {', '.join(CONVS)}{nearest(kind, CONVS)}"
            )
        self.kind = kind
        self.reduce, weighted = CONVS[kind]
        if not weighted and in_channels != out_channels:
            raise InputError(
                f"conv: {kind!r} has no weights and keeps {in_channels} channels, "
                f"wanted {out_channels}"
            )
        self.lin: nn.Linear | None = None
        self.bias: nn.Parameter | None = None
        if weighted:
            self.lin = nn.Linear(in_channels, out_channels, bias=False)
            self.bias = nn.Parameter(torch.zeros(out_channels))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Glorot weights and a bias of zero."""
        if self.lin is not None and self.bias is not None:
            nn.init.xavier_uniform_(self.lin.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, csr: CSR, value: float = 1.0) -> Tensor:
        y = x if self.lin is None else dense(self.lin, x)
        view = own_transpose(csr)
        if self.reduce == "gcn":
            weight, own = _normalisation(csr, value, y.dtype)
            out = torch.addcmul(aggregate(view, y, weight, message="scale"), own, y)
        else:
            out = aggregate(view, y, reduce=self.reduce)
            out = out if value == 1.0 else out * value  # positive: maxima and means scale as well
        return out if self.bias is None else out + self.bias


def _normalisation(csr: CSR, value: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight of each entry, and ``[N, 1]`` of each node's own features."""
    key = ("ncn_gcn", value, dtype)
    found = csr.derived.get(key)
    if found is None:
        compute = torch.float64 if dtype == torch.float64 else torch.float32
        own = 1.0 / (1.0 + value * csr.degree.to(compute))
        root = own.sqrt()
        weight = root.index_select(0, csr.row()) * root.index_select(0, csr.col) * value
        found = csr.derived[key] = (weight.to(dtype), own.to(dtype)[:, None])
    return found  # type: ignore[return-value]


class NCNEncoder(nn.Module):
    r"""The GNN of NCN (Wang, Yang, Zhang, ICLR 2024, arXiv 2302.00890).

    .. math::
        y^{(l)} = \mathrm{post}_l(\mathrm{conv}_l(x^{(l-1)}, \mathrm{DropAdj}(A))), \qquad
        x^{(l)} = y^{(l)} \; [+ \, x^{(l-1)}], \qquad
        h = x^{(L)} \;\text{or}\; \sum_l w_l x^{(l)}

    Pure convolutions are followed by nothing but a dropout after the last; the others by LayerNorm,
    dropout and ReLU, except the last of several. Only an input of ids, a pure convolution or no
    convolution at all brings a map to ``hidden_channels`` before the first layer.

    Args:
        in_channels: ``F``; read where ``max_x < 0``.
        hidden_channels: ``H``.
        conv: ``puregcn``, ``puresum``, ``puremean``, ``puremax``, ``gcn``, ``gcn_cached``,
            ``sage``, ``gin``, ``max``, or ``none`` with ``num_layers=0``.
        num_layers: ``L``, at least 0.
        max_x: the largest id where the input is ids of an embedding table; -1 for features.
        jk: sum all layers with learned weights, drawn from N(0, 1): with one layer a random gain.
        res: add a layer's input to its output where the widths are equal.
        ln: LayerNorm.
        xdp, tdp, gnndp, gnnedp: dropout of the input features, after the last pure convolution,
            elsewhere, and of the edges (each layer draws anew).

    Shapes:
        - **x:** ``[N, F]``, or ``[N]`` int64 ids
        - **out:** ``[N, H]``

    Raises:
        InputError: an argument that is unknown or out of range, or an input that does not fit.

    Example:
        >>> from graphkit.models.ncn.adjacency import adjacency
        >>> path = adjacency(torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), 3)
        >>> NCNEncoder(5, 8, "gcn", num_layers=2, res=True)(torch.randn(3, 5), path).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        in_channels: int | None,
        hidden_channels: int,
        conv: str = "puregcn",
        num_layers: int = 1,
        max_x: int = -1,
        jk: bool = False,
        res: bool = False,
        ln: bool = True,
        xdp: float = 0.0,
        tdp: float = 0.0,
        gnndp: float = 0.0,
        gnnedp: float = 0.0,
    ) -> None:
        super().__init__()
        for name, p in (("xdp", xdp), ("tdp", tdp), ("gnndp", gnndp), ("gnnedp", gnnedp)):
            check_probability(name, p)
        if hidden_channels < 1:
            raise InputError(f"hidden_channels: {hidden_channels}, wanted at least 1")
        if num_layers < 0:
            raise InputError(f"num_layers: {num_layers}, wanted at least 0")
        known = (*CONVS, "none")
        if conv not in known:
            raise InputError(
                f"conv: {conv!r} is not one of {', '.join(known)}{nearest(conv, known)}"
            )
        if conv == "none" and num_layers:
            raise InputError(f"num_layers: {num_layers}, wanted 0 with conv='none'")
        self.in_channels = in_channels
        self.max_x = max_x
        self.res = res
        self.gnnedp = gnnedp
        pure = num_layers == 0 or not CONVS[conv][1]
        width = hidden_channels
        self.embedding: nn.Embedding | None = None
        self.lin: nn.Linear | None = None
        if max_x >= 0:
            self.embedding = nn.Embedding(max_x + 1, hidden_channels)
            nn.init.orthogonal_(self.embedding.weight)
        else:
            if in_channels is None or in_channels < 1:
                raise InputError(f"in_channels: {in_channels}, wanted the number of node features")
            if pure:
                self.lin = nn.Linear(in_channels, hidden_channels)
            else:
                width = in_channels
        self.input_dropout = dropout(xdp)
        self.dropout = dropout(gnndp)
        self.convs = nn.ModuleList()
        self.posts = nn.ModuleList()
        for layer in range(num_layers):
            last = layer == num_layers - 1
            self.convs.append(
                AdjConv(width if layer == 0 else hidden_channels, hidden_channels, conv)
            )
            if pure:
                self.posts.append(dropout(tdp) if last else nn.Identity())
            elif last and layer > 0:
                self.posts.append(nn.Identity())
            else:
                norm = nn.LayerNorm(hidden_channels) if ln else nn.Identity()
                self.posts.append(nn.Sequential(norm, dropout(gnndp), nn.ReLU()))
        self.jk_weight = nn.Parameter(torch.randn(num_layers)) if jk and num_layers else None

    def reset_parameters(self) -> None:
        """Redraw every parameter."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not self and callable(reset):
                reset()
        if self.embedding is not None:
            nn.init.orthogonal_(self.embedding.weight)
        if self.jk_weight is not None:
            nn.init.normal_(self.jk_weight)

    def forward(self, x: Tensor, csr: CSR) -> Tensor:
        x = self._input(x)
        kept = []
        for conv, post in zip(self.convs, self.posts, strict=True):
            y = chain(post, conv(x, *drop_adj(csr, self.gnnedp, self.training)))
            x = x + y if self.res and x.shape == y.shape else y
            kept.append(x)
        if self.jk_weight is None:
            return x
        return sum_with(kept, self.jk_weight)

    def _input(self, x: Tensor) -> Tensor:
        if self.embedding is not None:
            ids = x.view(-1) if x.dim() == 2 and x.size(1) == 1 else x
            if ids.dim() != 1 or ids.dtype not in (torch.int32, torch.int64):
                raise InputError(f"x: {x.dtype} of shape {list(x.shape)}, wanted [N] int64 ids")
            if ids.numel() and not torch.compiler.is_compiling():
                low, high = (int(v) for v in torch.aminmax(ids))
                if low < 0 or high > self.max_x:
                    raise InputError(f"x: id {low if low < 0 else high}, wanted 0..{self.max_x}")
            return self.dropout(self.embedding(ids))
        if x.dim() != 2 or x.size(1) != self.in_channels or not x.is_floating_point():
            raise InputError(
                f"x: {x.dtype} of shape {list(x.shape)}, wanted floats [N, {self.in_channels}]"
            )
        if self.lin is None:
            return self.input_dropout(x)  # type: ignore[no-any-return]
        return self.dropout(drop_and_map(self.input_dropout, self.lin, x))  # type: ignore[no-any-return]


def sum_with(parts: list[Tensor], weight: Tensor) -> Tensor:
    """Sum tensors of one shape with a weight each.

    Example:
        >>> sum_with([torch.ones(2), torch.ones(2)], torch.tensor([1.0, 2.0]))
        tensor([3., 3.])
    """
    out = parts[0] * weight[0]
    for part, w in zip(parts[1:], weight[1:], strict=True):
        out = out + part * w
    return out


def dropout(p: float) -> nn.Module:
    """Dropout, or nothing where nothing would be dropped (it would copy its input)."""
    return Dropout(p) if p >= 1e-6 else nn.Identity()


def check_probability(name: str, p: float) -> None:
    """Refuse a dropout outside [0, 1)."""
    if not 0.0 <= p < 1.0:
        raise InputError(f"{name}: {p}, wanted 0 <= {name} < 1")
