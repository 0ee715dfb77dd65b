"""Virtual nodes: one extra state per graph that reads every node and writes back.

Gilmer et al. (arXiv 1704.01212) introduced the master node; "On the Connection Between MPNN and
Graph Transformer" (arXiv 2301.11956) compares the forms that published figures use. ``VirtualNode``
holds the forms whose state lives beside the graph, :func:`append_virtual_nodes` makes it an
ordinary node, and ``DeepSetsVN`` is the term that stands for attention inside a GPS layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.errors import InputError
from graphkit.nn.norm_act import chain, norm_act
from graphkit.nn.pooling import broadcast, pool
from graphkit.ops import CSR


def _vn_mlp(channels: int, inner: int, norm: bool, slope: float) -> nn.Sequential:
    """Lin(d, inner) [BN] act Lin(inner, d) [BN] act; leaky where ``slope`` is not zero."""

    def act() -> nn.Module:
        return nn.LeakyReLU(slope) if slope else nn.ReLU()

    layers: list[nn.Module] = []
    for wide_in, wide_out in ((channels, inner), (inner, channels)):
        layers.append(nn.Linear(wide_in, wide_out))
        if norm:
            layers.append(nn.BatchNorm1d(wide_out))
        layers.append(act())
    return nn.Sequential(*layers)


class VirtualNode(nn.Module):
    r"""The virtual node between the layers of a stack.

    The state starts as a learned vector (zero at first), :meth:`add` gives it to every node before
    a layer, and :meth:`update` reads the nodes:

    .. math::
        t_g = \mathrm{pool}_{i \in g}(h_i) + v_g, \qquad
        v_g \leftarrow [v_g +]\; \mathrm{dropout}(\mathrm{MLP}_\ell(t_g))

    ==============  =====================  =================================  ========
    ``mode``        reads                  MLP                                pool
    ==============  =====================  =================================  ========
    ``ogb``         the layer's input      d-2d-d, BatchNorm, ReLU            sum
    ``gps_custom``  the layer's output     d-d-d, BatchNorm, ReLU             sum
    ``climate``     the layer's input      d-2d-d, LeakyReLU(0.1)             mean
    ==============  =====================  =================================  ========

    Args:
        channels: width of node states.
        num_layers: layers of the stack; there are ``num_layers - 1`` updates.
        mode: as in the table.
        dropout: after the MLP.
        residual: keep the old state in the sum (always in ``climate``).

    Example:
        >>> from graphkit.nn import batch_segments
        >>> vn = VirtualNode(8, num_layers=3)
        >>> segments = batch_segments(torch.tensor([0, 0, 1]), 2)
        >>> state = vn.initial(2)
        >>> h = vn.add(torch.randn(3, 8), state, segments)
        >>> vn.update(0, h, state, segments).shape
        torch.Size([2, 8])
    """

    MODES = ("ogb", "gps_custom", "climate")

    def __init__(
        self,
        channels: int,
        num_layers: int,
        mode: str = "ogb",
        dropout: float = 0.0,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if mode not in self.MODES:
            raise InputError(f"mode: {mode!r} is not one of {', '.join(self.MODES)}")
        self.channels = channels
        self.mode = mode
        self.residual = residual or mode == "climate"
        self.pooling = "mean" if mode == "climate" else "sum"
        self.embedding = nn.Embedding(1, channels)
        inner = channels if mode == "gps_custom" else 2 * channels
        slope = 0.1 if mode == "climate" else 0.0
        self.mlps = nn.ModuleList(
            _vn_mlp(channels, inner, mode != "climate", slope) for _ in range(num_layers - 1)
        )
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.embedding.weight)

    @property
    def reads_output(self) -> bool:
        """Whether :meth:`update` wants the layer's output instead of its input."""
        return self.mode == "gps_custom"

    def reset_parameters(self) -> None:
        """Zero the state, redraw the maps."""
        nn.init.zeros_(self.embedding.weight)
        for layer in self.mlps.modules():
            if isinstance(layer, (nn.Linear, nn.BatchNorm1d)):
                layer.reset_parameters()

    def initial(self, num_graphs: int) -> Tensor:
        """``[G, d]`` the learned start, the same for every graph."""
        return self.embedding.weight.expand(num_graphs, -1)

    def add(self, h: Tensor, state: Tensor, segments: CSR) -> Tensor:
        """Give every node its graph's state."""
        return h + broadcast(state, segments)

    def update(self, layer: int, h: Tensor, state: Tensor, segments: CSR) -> Tensor:
        """The state after ``layer``, from the nodes ``h`` (input or output: ``reads_output``)."""
        if self.training and self.mode != "climate" and segments.num_rows < 2:
            raise InputError(
                "batch: one graph, but the virtual node's BatchNorm needs at least two in "
                "training; skip the batch or use larger ones"
            )
        read = pool(h, segments, self.pooling) + state
        new = self.dropout(chain(self.mlps[layer], read))
        return state + new if self.residual else new


def append_virtual_nodes(
    edge_index: Tensor, segments: CSR, *, pure: bool = False
) -> tuple[Tensor, Tensor]:
    """Join one ordinary node to every node of each graph of a batch, in both directions.

    The ``G`` new nodes come after all others. As PyG's VirtualNode transform does for one graph,
    the edges of the new node come after the given ones: first nodes to VN, then VN to nodes.

    Args:
        edge_index: ``[2, E]``
        segments: the batch, from :func:`graphkit.nn.batch_segments`.
        pure: keep only the new edges.

    Returns:
        ``edge_index`` ``[2, E + 2N]``, and the graph of each node, ``[N + G]``.

    Example:
        >>> from graphkit.nn import batch_segments
        >>> edges, _ = append_virtual_nodes(
        ...     torch.tensor([[0], [1]]), batch_segments(torch.tensor([0, 0]), 1))
        >>> edges.tolist()
        [[0, 0, 1, 2, 2], [1, 2, 2, 0, 1]]
    """
    owner = segments.transpose().col.to(edge_index.dtype)
    n, graphs = owner.numel(), segments.num_rows
    nodes = torch.arange(n, dtype=edge_index.dtype, device=edge_index.device)
    virtual = owner + n
    both = [torch.stack([nodes, virtual]), torch.stack([virtual, nodes])]
    joined = torch.cat(both if pure else [edge_index, *both], dim=1)
    new = torch.arange(graphs, dtype=owner.dtype, device=owner.device)
    return joined, torch.cat([owner, new])


class DeepSetsVN(nn.Module):
    r"""The DeepSets term of MPNN+VN in a GPS layer: :math:`y_i = x_i \alpha + \bar x \beta + b`,
    then ReLU and BatchNorm.

    The reference runs on a dense tensor padded with zeros to the largest graph, and those zeros
    enter the BatchNorm statistics in training. ``padded=True`` adds them analytically: mean and
    variance count ``G * N_max`` rows, of which all but ``N`` are zero. Nothing is padded.

    Args:
        channels: width ``d``.
        padded: count the reference's padding in the statistics (parity), or not.

    Example:
        >>> from graphkit.nn import batch_segments
        >>> layer = DeepSetsVN(4)
        >>> layer(torch.randn(3, 4), batch_segments(torch.tensor([0, 0, 1]), 2)).shape
        torch.Size([3, 4])
    """

    def __init__(self, channels: int, padded: bool = True) -> None:
        super().__init__()
        self.padded = padded
        self.alpha = nn.Parameter(torch.empty(channels, channels))
        self.beta = nn.Parameter(torch.empty(channels, channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.norm = nn.BatchNorm1d(channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform maps, bias uniform within 1/sqrt(d)."""
        nn.init.xavier_uniform_(self.alpha)
        nn.init.xavier_uniform_(self.beta)
        bound = self.bias.numel() ** -0.5
        nn.init.uniform_(self.bias, -bound, bound)
        self.norm.reset_parameters()

    def forward(self, x: Tensor, segments: CSR) -> Tensor:
        mean = pool(x, segments, "mean")
        y = torch.relu(x @ self.alpha + broadcast(mean @ self.beta, segments) + self.bias)
        if not (self.padded and self.training):
            return norm_act(self.norm, y, relu=False)
        return _padded_batch_norm(y, self.norm, segments)


def _padded_batch_norm(y: Tensor, norm: nn.BatchNorm1d, segments: CSR) -> Tensor:
    """BatchNorm of ``y`` as if each graph had been padded with zero rows to the largest one."""
    count = segments.num_rows * int(segments.degree.max()) if segments.num_rows else 0
    if count < 2:
        raise InputError("batch: fewer than two rows, but BatchNorm needs two in training")
    mean = y.sum(0) / count
    variance = (y * y).sum(0) / count - mean * mean
    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        momentum = 0.1 if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean, momentum)
        norm.running_var.lerp_(variance * count / (count - 1), momentum)
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
    return (y - mean) * (variance + norm.eps).rsqrt() * norm.weight + norm.bias
