"""NCN and NCNC: an encoder over the graph and a predictor over pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphkit.errors import InputError
from graphkit.models.ncn.adjacency import adjacency
from graphkit.models.ncn.completion import check_completion, increasing_alpha
from graphkit.models.ncn.encoder import NCNEncoder
from graphkit.models.ncn.predictor import LinkPredictor
from graphkit.models.registry import register_model
from graphkit.ops import CSR

# What a completing model holds and its plain twin does not.
_OWN = (
    "predictor.ptlin.",
    "predictor.alpha",
    "predictor.pt",
    "predictor.scale",
    "predictor.offset",
)


@register_model("ncn")
class NCN(nn.Module):
    r"""Neural Common Neighbor, with or without completion, and its ablations.

    Wang, Yang, Zhang: "Neural Common Neighbor with Completion for Link Prediction", ICLR 2024
    (arXiv 2302.00890). One GNN runs over the whole graph; the features of a pair's common
    neighbours are pooled and, with completion, those of nodes that may become such:

    .. math::
        h = \mathrm{encoder}(x, A), \qquad
        \mathrm{logit}_{ij} = \mathrm{predictor}(h, A, (i, j))

    In training, score positives on a graph that does not hold them: see
    :class:`~graphkit.models.ncn.TrainingEdges`. Each call of ``score`` draws its own dropped edges.

    Args:
        in_channels: number of node features; ``None`` with ``max_x``.
        hidden_channels, conv, num_layers, max_x, jk, res, ln, xdp, tdp, gnndp, gnnedp: see
            :class:`~graphkit.models.ncn.NCNEncoder`.
        predictor: ``ncn``, ``ncnc``, ``ncnc2``, ``gae`` and more; with the options after it see
            :class:`~graphkit.models.ncn.LinkPredictor`.
        symmetrise: take both directions of every edge of the graphs given, once and unweighted;
            else a graph that would need it is refused.

    Shapes:
        - **x:** ``[N, F]``, or ``[N]`` int64 ids with ``max_x``
        - **adj:** a CSR, ``edge_index`` ``[2, E]`` or sparse ``[N, N]``: undirected, no self-loops
        - **pairs:** ``[2, B]`` integers
        - **output:** ``[B, 1]`` logits; in evaluation the same for (i, j) and (j, i)

    Raises:
        InputError: an option that is unknown or out of range, a graph with self-loops, directions
            or weights, pairs that are no node ids.

    Example:
        >>> model = NCN(in_channels=4, hidden_channels=8, predictor="ncnc")
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> model(torch.randn(3, 4), edge_index, torch.tensor([[0, 0], [1, 2]])).shape
        torch.Size([2, 1])
    """

    name: str

    def __init__(
        self,
        in_channels: int | None = None,
        hidden_channels: int = 256,
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
        predictor: str = "ncn",
        depth: int | None = None,
        use_xlin: bool = False,
        tailact: bool = False,
        twolayerlin: bool = False,
        beta: float = 1.0,
        lnnn: bool = True,
        preedp: float = 0.0,
        predp: float = 0.0,
        cndeg: int = -1,
        trndeg: int = -1,
        tstdeg: int = -1,
        alpha: float = 1.0,
        pt: float = 0.5,
        scale: float = 5.0,
        offset: float = 3.0,
        learnpt: bool = False,
        nested_transform: bool = True,
        splitsize: int = -1,
        symmetrise: bool = False,
    ) -> None:
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        self.config: dict[str, Any] = config
        self.symmetrise = symmetrise
        self.encoder = NCNEncoder(
            in_channels, hidden_channels, conv, num_layers, max_x, jk, res, ln, xdp, tdp, gnndp,
            gnnedp,
        )  # fmt: skip
        self.predictor = LinkPredictor(
            hidden_channels, predictor, depth, use_xlin, tailact, twolayerlin, beta, lnnn, preedp,
            predp, cndeg, trndeg, tstdeg, alpha, pt, scale, offset, learnpt, nested_transform,
            splitsize,
        )  # fmt: skip

    def reset_parameters(self) -> None:
        """Redraw every parameter."""
        self.encoder.reset_parameters()
        self.predictor.reset_parameters(self.config["beta"])

    def forward(self, x: Tensor, adj: CSR | Tensor, pairs: Tensor) -> Tensor:
        graph = adjacency(adj, x.size(0), symmetrise=self.symmetrise)
        return self.score(self.encode(x, graph), graph, pairs)

    def encode(self, x: Tensor, adj: CSR | Tensor) -> Tensor:
        """Features ``[N, H]`` of all nodes.

        Args:
            x, adj: as for the model.
        """
        h: Tensor = self.encoder(x, adjacency(adj, x.size(0), symmetrise=self.symmetrise))
        return h

    def score(self, h: Tensor, adj: CSR | Tensor, pairs: Tensor) -> Tensor:
        """Logits ``[B, 1]`` of pairs.

        Args:
            h: what :meth:`encode` returned.
            adj: the graph whose neighbourhoods are pooled, usually the encoder's.
            pairs: ``[2, B]`` node ids.
        """
        graph = adjacency(adj, h.size(0), symmetrise=self.symmetrise)
        out: Tensor = self.predictor(h, graph, pairs)
        return out

    def set_alpha(self, alpha: float) -> None:
        """Change the upper bound of the completion's weights.

        Raises:
            InputError: a value that is negative or not finite, or a model without completion.

        Example:
            >>> NCN(in_channels=4, predictor="ncnc").set_alpha(0.5)
        """
        if not self.predictor.structure.completes:
            raise InputError(f"alpha: predictor={self.config['predictor']!r} has no completion")
        check_completion(alpha=alpha)
        self.predictor.alpha.fill_(alpha)

    def increase_alpha(self, epoch: int) -> None:
        """Set the bound that the published code's ``--increasealpha`` has in an epoch, from 1.

        Raises:
            InputError: a model without completion.

        Example:
            >>> model = NCN(in_channels=4, predictor="ncnc")
            >>> model.increase_alpha(10)
            >>> float(model.predictor.alpha)
            0.5
        """
        self.set_alpha(increasing_alpha(epoch))

    @torch.no_grad()
    def warm_start(self, trained: nn.Module) -> None:
        """Copy the weights of a trained model: an NCN's into an NCNC, as on ogbl-ddi.

        What only completion has (``ptlin``, ``alpha``, ``pt``, ``scale``, ``offset``) stays as it
        is in this model.

        Raises:
            InputError: another parameter is missing, left over, or of another shape.

        Example:
            >>> NCN(in_channels=4, predictor="ncnc").warm_start(NCN(in_channels=4))
        """
        own, given = self.state_dict(), trained.state_dict()
        own, given = (
            {k: v for k, v in state.items() if not k.startswith(_OWN)} for state in (own, given)
        )
        for name in (*own, *given):
            seen, wanted = (list(s[name].shape) if name in s else "nothing" for s in (given, own))
            if seen != wanted:
                raise InputError(f"trained: {name} is {seen}, wanted {wanted}")
        for name, value in own.items():
            value.copy_(given[name])
