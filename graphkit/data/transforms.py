"""Transforms of graphs: encodings and the appended virtual node, on one graph or on all at once."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from graphkit.data.packed import PackedGraphs
from graphkit.data.spectra import laplacian_pairs, return_probabilities
from graphkit.errors import InputError, nearest

if TYPE_CHECKING:
    from torch_geometric.data import Data

KINDS = {
    **dict.fromkeys(
        (
            "x",
            "pos",
            "rwse",
            "lap_vec",
            "lap_val",
            "fastrp",
            "vn_mask",
            "train_mask",
            "val_mask",
            "valid_mask",
            "test_mask",
        ),
        "node",
    ),
    **dict.fromkeys(("edge_attr", "edge_weight", "edge_type"), "edge"),
    "y": "graph",
}
"""What belongs to nodes, edges and graphs in a ``Data`` object; sizes are never looked at."""


class Transform:
    """Base of all transforms: JSON arguments in ``config``, ``apply`` for packed graphs.

    Called on a PyG ``Data`` it returns a new ``Data``; attributes whose kind is not in ``KINDS``
    must be named in ``kinds`` (for example ``kinds={"y": "node"}``).

    A class with ``reads_split`` finds the training nodes of the chosen split in ``train_mask`` when
    :func:`graphkit.data.load` applies it; what it returns is valid for this split only.
    """

    reads_split: ClassVar[bool] = False
    kinds: Mapping[str, str]

    def __init__(self, kinds: Mapping[str, str] | None = None, **arguments: Any) -> None:
        self.kinds = {**KINDS, **(kinds or {})}
        self.config: dict[str, Any] = {"name": type(self).__name__, **arguments}
        if kinds:
            self.config["kinds"] = dict(kinds)

    def apply(self, graphs: PackedGraphs) -> PackedGraphs:
        """Return the transformed graphs; the input is left as it is."""
        raise NotImplementedError

    def __call__(self, data: Data) -> Data:
        """Return one transformed graph; the input is left as it is."""
        return self.apply(PackedGraphs.from_data_list([data], self.kinds))[0]

    def __repr__(self) -> str:
        arguments = ", ".join(
            f"{key}={value!r}" for key, value in self.config.items() if key != "name"
        )
        return f"{self.config['name']}({arguments})"


class AddRandomWalkPE(Transform):
    r"""Probability that a random walk returns to its start after 1, 2, ..., K steps.

    From "Graph Neural Networks with Learnable Structural and Positional Representations"
    (arXiv 2110.07875): ``p_k(i) = (P^k)_ii`` with ``P = D^-1 A``, for k = 1..K.

    Args:
        walk_length: K, the number of steps.
        key: attribute that receives the result.
        kinds: see :class:`Transform`.

    Shapes:
        output: float32 ``[N, walk_length]``.

    Raises:
        InputError: ``walk_length`` is not positive.

    Example:
        >>> from torch_geometric.data import Data
        >>> path = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> AddRandomWalkPE(2)(path).rwse.tolist()
        [[0.0, 0.5], [0.0, 1.0], [0.0, 0.5]]
    """

    def __init__(
        self, walk_length: int, key: str = "rwse", kinds: Mapping[str, str] | None = None
    ) -> None:
        if walk_length < 1:
            raise InputError(f"walk_length: must be at least 1, got {walk_length}")
        super().__init__(kinds, walk_length=walk_length, key=key)
        self.walk_length, self.key = walk_length, key

    def apply(self, graphs: PackedGraphs) -> PackedGraphs:
        """Add the return probabilities of every node."""
        return graphs.with_attributes(
            node={self.key: return_probabilities(graphs, self.walk_length)}
        )


class AddLaplacianPE(Transform):
    """The k smallest eigenpairs of the graph Laplacian, eigenvalue 0 included.

    Eigenvectors have length 1 and the first of their largest entries is positive, so that the
    result does not depend on the solver's mood; models flip signs in training. Graphs with fewer
    than k nodes are padded with NaN. Direction, weights, loops and repeats of edges do not matter.

    Args:
        k: number of eigenpairs.
        normalization: ``"sym"`` for I - D^-1/2 A D^-1/2, ``None`` for D - A.
        vector_key: attribute that receives the eigenvector entries.
        value_key: attribute that receives the eigenvalues, repeated for each node.
        kinds: see :class:`Transform`.

    Shapes:
        outputs: float32 ``[N, k]`` each.

    Raises:
        InputError: ``k`` is not positive, or the normalization is unknown.

    Example:
        >>> from torch_geometric.data import Data
        >>> path = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
        >>> [round(value, 4) + 0 for value in AddLaplacianPE(3)(path).lap_val[0].tolist()]
        [0.0, 1.0, 2.0]
    """

    def __init__(
        self,
        k: int,
        normalization: str | None = "sym",
        vector_key: str = "lap_vec",
        value_key: str = "lap_val",
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        if k < 1:
            raise InputError(f"k: must be at least 1, got {k}")
        if normalization not in ("sym", None):
            raise InputError(f"normalization: expected 'sym' or None, got {normalization!r}")
        super().__init__(
            kinds, k=k, normalization=normalization, vector_key=vector_key, value_key=value_key
        )
        self.k, self.normalization = k, normalization
        self.vector_key, self.value_key = vector_key, value_key

    def apply(self, graphs: PackedGraphs) -> PackedGraphs:
        """Add eigenvectors and eigenvalues to every node."""
        vectors, values = laplacian_pairs(graphs, self.k, self.normalization)
        return graphs.with_attributes(node={self.vector_key: vectors, self.value_key: values})


class AppendVirtualNode(Transform):
    """Give each graph one more node, tied to all others in both directions.

    Mode ``append`` of "On the Connection Between MPNN and Graph Transformer" (arXiv 2301.11956),
    with the semantics of PyG's ``VirtualNode``: the new node comes last, edges ``i -> N`` for all i
    and then ``N -> i`` follow the old ones. Node tensors get a zero row, edge tensors zero rows
    (``edge_weight``: ones), ``edge_type`` two new types. Graph-level tensors stay. ``vn_mask``
    marks the new node, which lets metrics leave it out. Encodings are added before this transform.

    Args:
        pure: keep only the new edges.
        kinds: see :class:`Transform`.

    Shapes:
        x: ``[N, F]`` becomes ``[N + 1, F]``; edge_index: ``[2, E]`` becomes ``[2, E + 2N]``.

    Raises:
        InputError: the graphs already have a virtual node.

    Example:
        >>> from torch_geometric.data import Data
        >>> edge = Data(x=torch.ones(2, 1), edge_index=torch.tensor([[0], [1]]))
        >>> AppendVirtualNode()(edge).edge_index.tolist()
        [[0, 0, 1, 2, 2], [1, 2, 2, 0, 1]]
    """

    def __init__(self, pure: bool = False, kinds: Mapping[str, str] | None = None) -> None:
        super().__init__(kinds, pure=pure)
        self.pure = pure

    def apply(self, graphs: PackedGraphs) -> PackedGraphs:
        """Append one node and its edges to every graph."""
        if "vn_mask" in graphs:
            raise InputError(
                "these graphs already have a virtual node; AppendVirtualNode was applied twice"
            )
        counts = graphs.nodes_per_graph
        kept = torch.zeros_like(counts) if self.pure else graphs.edges_per_graph
        number = torch.arange(len(graphs))
        node_ptr = graphs.node_ptr + torch.arange(len(graphs) + 1)
        edge_ptr = torch.nn.functional.pad((kept + 2 * counts).cumsum(0), (1, 0))

        owner = torch.repeat_interleave(number, counts)
        local = torch.arange(graphs.num_nodes) - graphs.node_ptr[owner]
        node_rows = node_ptr[owner] + local
        edge_owner = torch.repeat_interleave(number, kept)
        old_rows = (
            torch.arange(int(kept.sum()))
            - torch.nn.functional.pad(kept.cumsum(0), (1, 0))[edge_owner]
        )
        old_rows = old_rows + edge_ptr[edge_owner]
        to_rows = edge_ptr[owner] + kept[owner] + local
        from_rows = to_rows + counts[owner]

        edge_index = torch.empty(2, int(edge_ptr[-1]), dtype=torch.int64)
        if not self.pure:
            edge_index[:, old_rows] = graphs.edge_index
        hub = counts[owner]
        edge_index[:, to_rows] = torch.stack([local, hub])
        edge_index[:, from_rows] = torch.stack([hub, local])

        parts: dict[str, dict[str, Tensor]] = {"node": {}, "edge": {}, "graph": {}}
        for key, kind in graphs.kinds.items():
            value: Tensor = getattr(graphs, key)
            if kind == "graph":
                parts[kind][key] = value
                continue
            size = int(node_ptr[-1]) if kind == "node" else int(edge_ptr[-1])
            fill = 1 if key == "edge_weight" else 0
            grown = torch.full((size, *value.shape[1:]), fill, dtype=value.dtype)
            if kind == "node":
                grown[node_rows] = value
            elif not self.pure:
                grown[old_rows] = value
            parts[kind][key] = grown
        parts["edge"]["edge_type"] = self._edge_types(
            graphs, parts["edge"].get("edge_type"), edge_ptr, to_rows, from_rows, owner
        )
        mask = torch.zeros(int(node_ptr[-1]), dtype=torch.bool)
        mask[node_ptr[1:] - 1] = True
        parts["node"]["vn_mask"] = mask
        return PackedGraphs(
            node_ptr,
            edge_ptr,
            edge_index,
            check=False,
            node=parts["node"],
            edge=parts["edge"],
            graph=parts["graph"],
        )

    @staticmethod
    def _edge_types(
        graphs: PackedGraphs,
        types: Tensor | None,
        edge_ptr: Tensor,
        to_rows: Tensor,
        from_rows: Tensor,
        owner: Tensor,
    ) -> Tensor:
        if types is None:
            types = torch.zeros(int(edge_ptr[-1]), dtype=torch.int64)
        highest = torch.zeros(len(graphs), dtype=types.dtype)
        of_edge = torch.repeat_interleave(torch.arange(len(graphs)), edge_ptr.diff())
        highest.scatter_reduce_(0, of_edge, types, "amax")
        types[to_rows] = highest[owner] + 1
        types[from_rows] = highest[owner] + 2
        return types


class NormalizeFeatures(Transform):
    """Divide each node's features by their sum, as is customary for bags of words.

    Example:
        >>> from torch_geometric.data import Data
        >>> no_edges = torch.zeros(2, 0, dtype=torch.long)
        >>> data = Data(x=torch.tensor([[1., 3.], [0., 0.]]), edge_index=no_edges)
        >>> NormalizeFeatures()(data).x.tolist()
        [[0.25, 0.75], [0.0, 0.0]]
    """

    def __init__(self, kinds: Mapping[str, str] | None = None) -> None:
        super().__init__(kinds)

    def apply(self, graphs: PackedGraphs) -> PackedGraphs:
        """Normalise ``x``.

        Raises:
            InputError: the graphs have no float features.
        """
        x = graphs.x
        if x is None or not x.is_floating_point():
            raise InputError("x: NormalizeFeatures needs float node features")
        total = x.sum(-1, keepdim=True)
        return graphs.with_attributes(node={"x": torch.where(total == 0, x, x / total)})


# Attacks and embeddings bring optimisers and models along: only those who name them import them.
ATTACKS = ("DICE", "Metattack", "PGDAttack", "RandomAttack")
_LATER = {
    **dict.fromkeys(ATTACKS, "graphkit.data.attacks"),
    "AddFastRP": "graphkit.tasks.embedding_transform",
}


class _Registry:
    classes: ClassVar[dict[str, type[Transform]]] = {
        cls.__name__: cls
        for cls in (AddRandomWalkPE, AddLaplacianPE, AppendVirtualNode, NormalizeFeatures)
    }


def list_transforms() -> list[str]:
    """Return the names that :func:`create_transform` knows."""
    return sorted({*_Registry.classes, *_LATER})


def create_transform(config: Mapping[str, Any] | Transform) -> Transform:
    """Build a transform from its name and arguments.

    Raises:
        InputError: unknown name or argument; the nearest known one is given.

    Example:
        >>> create_transform({"name": "AddRandomWalkPE", "walk_length": 16})
        AddRandomWalkPE(walk_length=16, key='rwse')
    """
    if isinstance(config, Transform):
        return config
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name in _LATER and name not in _Registry.classes:
        _Registry.classes[name] = getattr(importlib.import_module(_LATER[name]), name)
    if name not in _Registry.classes:
        raise InputError(
            f"transforms: {name!r} is not known{nearest(str(name), list_transforms())}; "
            f"there are {list_transforms()}"
        )
    try:
        return _Registry.classes[name](**arguments)
    except TypeError as error:
        raise InputError(f"transforms: {name}: {error}") from error


def apply_transforms(graphs: PackedGraphs, steps: Sequence[Transform]) -> PackedGraphs:
    """Apply transforms one after another."""
    for step in steps:
        graphs = step.apply(graphs)
    return graphs
