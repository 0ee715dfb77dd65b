"""MPNN+VN: message passing with a virtual node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphkit.errors import InputError, nearest
from graphkit.models.registry import register_model
from graphkit.nn.encoders import bond_code, edge_encoder, node_encoder
from graphkit.nn.encodings import LapPEEncoder, RWSEEncoder
from graphkit.nn.l2_normalize import l2_normalize
from graphkit.nn.mpnn_layer import Edges, MPNNLayer, activation, make_norm
from graphkit.nn.pooling import batch_segments, broadcast, pool
from graphkit.nn.virtual_node import DeepSetsVN, VirtualNode, append_virtual_nodes
from graphkit.ops import CSR

VIRTUAL_NODES = (None, "append", "ogb", "gps_custom", "dsvn", "climate", "ffn")
_USES_EDGES = ("ogb_gin", "ogb_gcn", "gine", "gatedgcn")


@register_model("mpnn_vn")
class MPNNVN(nn.Module):
    r"""A message-passing network with a virtual node in one of the forms of the published figures.

    Cai, Hriday, Yu, Wang: "On the Connection Between MPNN and Graph Transformer", ICML 2023
    (arXiv 2301.11956); the ``ogb`` form is that of the OGB baselines (arXiv 2005.00687), ``append``
    that of the paper's LRGB figures, ``ffn`` that of arXiv 2405.11951.

    ==============  ====================================================================
    virtual_node    form
    ==============  ====================================================================
    ``None``        none
    ``append``      an ordinary extra node (all-zero raw features), counted in readouts
    ``ogb``         learned state + MLP between layers, reads layer inputs
    ``gps_custom``  as ``ogb``, reads layer outputs
    ``dsvn``        DeepSets term beside the convolution in a GPS layer
    ``climate``     as ``ogb`` with mean pooling, LeakyReLU and residual
    ``ffn``         feed-forward network of the pooled state beside the convolution
    ==============  ====================================================================

    Args:
        in_channels: ``"atom"`` (OGB's nine integers) or the number of node features.
        out_channels: outputs per graph or node.
        edge_dim: ``"bond"`` (OGB's three integers), a number, or ``None``.
        level: ``"graph"`` or ``"node"``.
        hidden_channels, num_layers: width ``d`` and depth.
        conv: ``ogb_gin``, ``ogb_gcn``, ``gine``, ``gatedgcn``, ``gcn``, ``lrgb_gcn``, ``gcnii``.
        virtual_node: as in the table.
        vn_residual: keep the old state of the virtual node in its update.
        residual, norm, act, dropout: see :class:`graphkit.nn.mpnn_layer.MPNNLayer`.
        jk: ``last``, or ``sum`` over all ``num_layers + 1`` states.
        pooling: ``mean``, ``sum`` or ``max`` (graph level).
        encodings: ``{"name": "rwse", "walk_length": 16, "dim": 20}`` and
            ``{"name": "lappe", "k": 10, "dim": 16}``; their widths are taken from the node
            encoder's. The batch must carry ``rwse``, or ``lap_vec`` and ``lap_val``.
        head: ``linear``; ``mlp`` (``head_layers`` of constant width); ``halving`` (d, d/2, d/4);
            ``gym`` (GraphGym: Linear, ReLU, row L2-normalisation per hidden layer).
        pure_vn: ``append`` without the original edges (ablation).
        padded_statistics: ``dsvn`` counts the reference's padding in its BatchNorm.
        nodes_per_graph: fixed number of nodes; adds the climate task's convolution over features.

    Shapes:
        - **input:** a PyG ``Batch`` (or ``Data``): ``x`` ``[N, F]``, ``edge_index`` ``[2, E]``,
          ``edge_attr`` ``[E, D]``, ``batch`` ``[N]`` sorted
        - **output:** ``[G, out_channels]``, or ``[N, out_channels]`` at node level

    Raises:
        InputError: an unknown option, or a batch that lacks or contradicts what the model reads.

    Example:
        >>> from torch_geometric.data import Data
        >>> model = MPNNVN(in_channels=4, out_channels=2, conv="gcn", virtual_node="append")
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> model(Data(x=torch.randn(3, 4), edge_index=edge_index)).shape
        torch.Size([1, 2])
    """

    name: str

    def __init__(
        self,
        in_channels: int | str,
        out_channels: int,
        edge_dim: int | str | None = None,
        level: str = "graph",
        hidden_channels: int = 64,
        num_layers: int = 3,
        conv: str = "ogb_gin",
        virtual_node: str | None = None,
        vn_residual: bool = False,
        residual: bool = False,
        norm: str | None = "batch",
        act: str = "relu",
        dropout: float = 0.0,
        jk: str = "last",
        pooling: str = "mean",
        encodings: Sequence[dict[str, Any]] = (),
        head: str = "linear",
        head_layers: int = 2,
        head_dropout: float = 0.0,
        pure_vn: bool = False,
        padded_statistics: bool = True,
        nodes_per_graph: int | None = None,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.config: dict[str, Any] = {**config, "encodings": [dict(e) for e in encodings]}
        _one_of("virtual_node", virtual_node, VIRTUAL_NODES)
        _one_of("level", level, ("graph", "node"))
        _one_of("jk", jk, ("last", "sum"))
        _one_of("pooling", pooling, ("mean", "sum", "max"))
        for key, value in (("hidden_channels", hidden_channels), ("num_layers", num_layers)):
            if value < 1:
                raise InputError(f"{key}: {value}, wanted at least 1")
        if not 0.0 <= dropout < 1.0:
            raise InputError(f"dropout: {dropout}, wanted 0 <= dropout < 1")
        if conv.startswith("ogb") and edge_dim != "bond":
            raise InputError(f"edge_dim: {edge_dim!r}, but conv={conv!r} reads 'bond' features")
        self.level = level
        self.conv = conv
        self.virtual_node = virtual_node
        self.jk = jk
        self.pooling = pooling
        self.dropout = dropout
        d = hidden_channels
        encoders = dict(_encoding(e) for e in self.config["encodings"])
        self.encodings = nn.ModuleDict(encoders)
        width = d - sum(e.dim for e in encoders.values())
        if width < 1:
            raise InputError(f"encodings: they take all of hidden_channels={d}")
        self.node_encoder: nn.Module = node_encoder(in_channels, width)
        if nodes_per_graph is not None:
            self.node_encoder = ClimateEncoder(nodes_per_graph, in_channels, width)
        self.edge_encoder: Any = None
        if conv in ("gine", "gatedgcn"):
            if edge_dim is None:
                raise InputError(f"edge_dim: missing, but conv={conv!r} reads edge features")
            self.edge_encoder = edge_encoder(edge_dim, d)
        self.bonds = edge_dim == "bond"
        layers: list[nn.Module] = []
        options = (conv, d, norm, act, dropout, residual)
        for i in range(num_layers):
            last = i == num_layers - 1
            layers.append(
                ParallelVNLayer(*options, last, virtual_node, padded_statistics)
                if virtual_node in ("dsvn", "ffn")
                else MPNNLayer(*options, last)
            )
        self.layers = nn.ModuleList(layers)
        if virtual_node in VirtualNode.MODES:
            self.vn = VirtualNode(d, num_layers, virtual_node, dropout, vn_residual)
        self.head = _head(head, d, out_channels, head_layers, act, head_dropout)

    def reset_parameters(self) -> None:
        """Redraw every parameter."""
        for module in self.modules():
            reset = getattr(module, "reset_parameters", None)
            if module is not self and callable(reset):
                reset()

    def forward(self, batch: Any) -> Tensor:
        x, segments = self._checked(batch)
        edges, n = batch.edge_index, x.size(0)
        appended = self.virtual_node == "append"
        if appended:
            if getattr(batch, "vn_mask", None) is not None:
                raise InputError("virtual_node: the graphs carry one already (vn_mask)")
            edges, _ = append_virtual_nodes(edges, segments, pure=self.config["pure_vn"])
            x = _with_zero_rows(x, segments.num_rows)
        h = self._encode(batch, x)
        state = self._edges(batch, edges, x.size(0))
        h = self._stack(h, state, segments)
        if self.level == "node":
            return self.head(h[:n])
        return self.head(self._readout(h, segments, n if appended else None))

    def _stack(self, h: Tensor, edges: Edges, segments: CSR) -> Tensor:
        states, x_0 = [h], h
        vn_state = None
        if self.virtual_node in VirtualNode.MODES:
            vn_state = self.vn.initial(segments.num_rows)
        for i, layer in enumerate(self.layers):
            if vn_state is not None:
                h = self.vn.add(h, vn_state, segments)
                states[-1] = h  # OGB's list holds the layer inputs
            out = layer(h, edges, x_0, segments)
            if vn_state is not None and i < len(self.layers) - 1:
                read = out if self.vn.reads_output else h
                vn_state = self.vn.update(i, read, vn_state, segments)
            h = out
            states.append(h)
        if self.conv == "lrgb_gcn":
            h = states[-1] = l2_normalize(h)
        return torch.stack(states).sum(0) if self.jk == "sum" else h

    def _readout(self, h: Tensor, segments: CSR, num_real: int | None) -> Tensor:
        if num_real is None:
            return pool(h, segments, self.pooling)
        real, virtual = h[:num_real], h[num_real:]
        if self.pooling == "max":
            return torch.maximum(pool(real, segments, "max"), virtual)
        total = pool(real, segments, "sum") + virtual
        count = segments.degree.to(h.dtype)[:, None] + 1
        return total / count if self.pooling == "mean" else total

    def _encode(self, batch: Any, x: Tensor) -> Tensor:
        parts = [self.node_encoder(x)]
        for name, encoder in self.encodings.items():
            keys = ("rwse",) if name == "rwse" else ("lap_vec", "lap_val")
            given = [getattr(batch, key) for key in keys if getattr(batch, key, None) is not None]
            if len(given) < len(keys):
                transform = "AddRandomWalkPE" if name == "rwse" else "AddLaplacianPE"
                raise InputError(
                    f"encodings: {name!r} is asked for, but the batch has no {keys[0]!r}; "
                    f"load the data set with the transform {transform}"
                )
            missing = x.size(0) - given[0].size(0)
            parts.append(encoder(*(_with_zero_rows(t, missing) for t in given)))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _edges(self, batch: Any, edge_index: Tensor, num_nodes: int) -> Edges:
        csr = CSR.from_edge_index(edge_index, num_nodes)
        edges = Edges(edge_index, csr)
        if self.conv not in _USES_EDGES:
            return edges
        attr = batch.edge_attr
        if attr is None or attr.size(0) != batch.edge_index.size(1):
            seen = "missing" if attr is None else f"{attr.size(0)} rows"
            raise InputError(
                f"edge_attr: {seen}, wanted {batch.edge_index.size(1)}, one for each edge"
            )
        if self.config["pure_vn"] and self.virtual_node == "append":
            attr = attr[:0]
        attr = _with_zero_rows(attr, edge_index.size(1) - attr.size(0))
        if self.conv.startswith("ogb"):
            edges.code = bond_code(attr)
        elif self.bonds and self.conv == "gine":
            edges.code = bond_code(attr)
            edges.table = self.edge_encoder.combinations()
        else:
            edges.state = self.edge_encoder(attr)
        return edges

    def _checked(self, batch: Any) -> tuple[Tensor, CSR]:
        x = batch.x
        if x is None or x.dim() != 2:
            raise InputError("x: the batch has no node features of shape [N, F]")
        if x.is_floating_point() and not torch.compiler.is_compiling() and bool(x.isnan().any()):
            row, column = (int(v) for v in x.isnan().nonzero()[0])
            raise InputError(f"x: NaN in row {row}, column {column}; wanted finite node features")
        if batch.batch is None:
            index = torch.zeros(x.size(0), dtype=torch.int64, device=x.device)
            return x, batch_segments(index, 1)
        if batch.batch.numel() != x.size(0):
            raise InputError(f"batch: {batch.batch.numel()} entries, wanted {x.size(0)} as x")
        segments = batch_segments(batch.batch, batch.num_graphs)
        needs_nodes = self.virtual_node in ("ogb", "gps_custom", "dsvn")
        if needs_nodes and not torch.compiler.is_compiling() and bool((segments.degree == 0).any()):
            empty = int((segments.degree == 0).nonzero()[0])
            raise InputError(
                f"batch: graph {empty} has no nodes, but the virtual node's BatchNorm counts it"
            )
        return x, segments


class ParallelVNLayer(nn.Module):
    """A convolution and a global term side by side (``dsvn``: GPS; ``ffn``: arXiv 2405.11951).

    ``dsvn``: ``h = BN(conv) + BN(h + dropout(DeepSets(h)))``, then ``h = BN(h + FF(h))``.
    ``ffn``: ``h = norm(h + conv) + norm(h + dropout(FF(pool h)))``, then the same last step.
    """

    def __init__(
        self,
        conv: str,
        channels: int,
        norm: str | None,
        act: str,
        dropout: float,
        residual: bool,
        last: bool = False,
        vn: str | None = "dsvn",
        padded: bool = True,
    ) -> None:
        super().__init__()
        self.vn = vn
        # GatedGCN carries its own residual; the others are added here.
        own = conv == "gatedgcn" and vn == "dsvn"
        self.add_input = not own
        self.local = MPNNLayer(conv, channels, norm if own else None, act, dropout, own)
        self.local.last = last and vn != "dsvn"
        self.local_norm = make_norm(norm, channels)
        self.global_term: nn.Module = (
            DeepSetsVN(channels, padded) if vn == "dsvn" else _feed_forward(channels, dropout)
        )
        self.global_norm = make_norm(norm, channels)
        self.feed_forward = _feed_forward(channels, dropout)
        self.feed_forward_drop = nn.Dropout(dropout)
        self.norm = make_norm(norm, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, edges: Edges, x_0: Tensor, segments: CSR) -> Tensor:
        local = self.local(h, edges, x_0)
        local = self.local_norm(h + local if self.add_input else local)
        if self.vn == "dsvn":
            term = self.global_term(h, segments)
        else:
            term = broadcast(self.global_term(pool(h, segments, "mean")), segments)
        h = local + self.global_norm(h + self.dropout(term))
        return self.norm(h + self.feed_forward_drop(self.feed_forward(h)))


class ClimateEncoder(nn.Module):
    """The climate task's node encoder: nodes are channels of a convolution over their features.

    Conv1d(N, N, 3, padding 1), LeakyReLU, Linear, LeakyReLU; so every graph has ``N`` nodes.
    """

    def __init__(self, nodes_per_graph: int, in_channels: int | str, channels: int) -> None:
        super().__init__()
        if not isinstance(in_channels, int):
            raise InputError(f"in_channels: {in_channels!r}, wanted a number with nodes_per_graph")
        self.nodes_per_graph = nodes_per_graph
        self.conv = nn.Conv1d(nodes_per_graph, nodes_per_graph, 3, padding=1)
        self.lin = nn.Linear(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.size(0) % self.nodes_per_graph:
            raise InputError(
                f"x: {x.size(0)} rows, wanted a multiple of nodes_per_graph={self.nodes_per_graph}"
            )
        grid = x.view(-1, self.nodes_per_graph, x.size(1))
        h = F.leaky_relu(self.conv(grid), 0.1).view_as(x)
        return F.leaky_relu(self.lin(h), 0.1)


class GraphGymHead(nn.Module):
    """GraphGym's MLP: hidden layers are Linear, ReLU, row L2-normalisation; the last is linear."""

    def __init__(self, channels: int, out_channels: int, num_layers: int) -> None:
        super().__init__()
        widths = [channels] * num_layers + [out_channels]
        self.linears = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)
        )

    def forward(self, h: Tensor) -> Tensor:
        for linear in list(self.linears)[:-1]:
            h = l2_normalize(torch.relu(linear(h)))
        return self.linears[-1](h)


class _Activation(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        activation(name)
        self.function = name

    def forward(self, x: Tensor) -> Tensor:
        return activation(self.function)(x)


def _feed_forward(channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, 2 * channels),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(2 * channels, channels),
    )


def _head(
    kind: str, channels: int, out_channels: int, layers: int, act: str, dropout: float
) -> nn.Module:
    _one_of("head", kind, ("linear", "mlp", "halving", "gym"))
    if layers < 1:
        raise InputError(f"head_layers: {layers}, wanted at least 1")
    if kind == "linear":
        return nn.Linear(channels, out_channels)
    if kind == "gym":
        return GraphGymHead(channels, out_channels, layers)
    if kind == "halving":
        return nn.Sequential(
            nn.Linear(channels, channels // 2),
            nn.ReLU(),
            nn.Linear(channels // 2, channels // 4),
            nn.ReLU(),
            nn.Linear(channels // 4, out_channels),
        )
    hidden: list[nn.Module] = []
    for _ in range(layers - 1):
        hidden += [nn.Linear(channels, channels), _Activation(act), nn.Dropout(dropout)]
    return nn.Sequential(*hidden, nn.Linear(channels, out_channels))


def _encoding(options: dict[str, Any]) -> tuple[str, RWSEEncoder | LapPEEncoder]:
    options = dict(options)
    name = options.pop("name", None)
    _one_of("encodings.name", name, ("rwse", "lappe"))
    try:
        return name, RWSEEncoder(**options) if name == "rwse" else LapPEEncoder(**options)
    except TypeError as error:
        wanted = "walk_length and dim" if name == "rwse" else "k and dim"
        raise InputError(f"encodings: {name} takes {wanted} ({error})") from None


def _one_of(argument: str, value: Any, known: Sequence[Any]) -> None:
    if value not in known:
        words = [str(k) for k in known if k is not None]
        raise InputError(
            f"{argument}: {value!r} is not one of {', '.join(words)}{nearest(str(value), words)}"
        )


def _with_zero_rows(x: Tensor, rows: int) -> Tensor:
    return torch.cat([x, x.new_zeros(rows, *x.shape[1:])]) if rows else x
