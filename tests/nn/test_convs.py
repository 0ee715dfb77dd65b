"""One contract for all fused convolutions: their own definition, PyG's class, and good manners."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn

import graphkit.nn as gk
from graphkit.errors import InputError
from graphkit.ops import CSR

WIDTH = 8
HEADS = (WIDTH, WIDTH // 2)  # two heads side by side make WIDTH again
AGGREGATIONS = ["sum", "add", "mean", "min", "max", "var", "std"]
SIX = ["sum", "mean", "min", "max", "var", "std"]
SCALERS = ["identity", "amplification", "attenuation", "linear", "inverse_linear"]
DEGREES = torch.tensor([2, 0, 1, 3, 4, 2, 1])
LISTS = [["mean", "max"], ["mean", "min", "max", "std"], ["sum", "var"]]


@dataclass
class Conv:
    """How to build a layer from either library, and what it takes besides ``x, edge_index``."""

    name: str
    options: dict = field(default_factory=dict)
    edge: Callable[[int], Tensor] | None = None
    bipartite: bool = False
    wraps: bool = False  # GIN-like layers take a network as their first argument
    first: tuple = (WIDTH, WIDTH)

    def build(self, library=gk, **more) -> nn.Module:
        torch.manual_seed(7)
        arguments = (nn.Linear(self.wide(more), WIDTH),) if self.wraps else self.first
        return getattr(library, self.name)(*arguments, **{**self.options, **more}).double()

    def wide(self, more) -> int:
        return WIDTH

    @property
    def sized(self) -> bool:
        """Whether ``forward`` takes the two numbers of nodes, and so works without targets."""
        return self.name not in ("GATv2Conv", "TransformerConv", "ResGatedGraphConv")

    @property
    def has_peer(self) -> bool:
        return hasattr(pyg, self.name)


def weights(edges: int) -> Tensor:
    return torch.rand(edges, dtype=torch.float64) + 0.1


def wide_edges(edges: int, width: int = WIDTH) -> Tensor:
    return torch.randn(edges, width, dtype=torch.float64)


def pna(aggregators=("mean", "min", "max", "std"), scalers=SCALERS[:3], options=None) -> Conv:
    options = options or {}
    edge = (lambda e: wide_edges(e, 3)) if "edge_dim" in options else None
    first = (WIDTH, WIDTH, list(aggregators), list(scalers), DEGREES)
    return Conv("PNAConv", options, edge, first=first)


CONVS = {
    "gcn": Conv("GCNConv"),
    "gcn-weights": Conv("GCNConv", edge=weights),
    "gcn-improved": Conv("GCNConv", {"improved": True}, edge=weights),
    "gcn-no-loops": Conv("GCNConv", {"add_self_loops": False}, edge=weights),
    "gcn-plain": Conv("GCNConv", {"normalize": False}),
    "gcn-plain-weights": Conv("GCNConv", {"normalize": False}, edge=weights),
    "gcn-no-bias": Conv("GCNConv", {"bias": False}),
    "gcn-cached": Conv("GCNConv", {"cached": True}),
    "gcn-std": Conv("GCNConv", {"aggr": "std"}),
    "gcn-max": Conv("GCNConv", {"aggr": "max"}, edge=weights),
    "gcn-backwards": Conv("GCNConv", {"flow": "target_to_source"}),
    "sage": Conv("SAGEConv", bipartite=True),
    "sage-normalize": Conv("SAGEConv", {"normalize": True}, bipartite=True),
    "sage-project": Conv("SAGEConv", {"project": True}, bipartite=True),
    "sage-no-root": Conv("SAGEConv", {"root_weight": False}, bipartite=True),
    **{f"sage-{a}": Conv("SAGEConv", {"aggr": a}, bipartite=True) for a in AGGREGATIONS},
    **{f"sage-{'+'.join(a)}": Conv("SAGEConv", {"aggr": a}, bipartite=True) for a in LISTS},
    "gin": Conv("GINConv", bipartite=True, wraps=True),
    "gin-eps": Conv("GINConv", {"eps": 0.3, "train_eps": True}, bipartite=True, wraps=True),
    "gin-max": Conv("GINConv", {"aggr": "max"}, bipartite=True, wraps=True),
    "gin-std": Conv("GINConv", {"aggr": "std"}, bipartite=True, wraps=True),
    "gine": Conv("GINEConv", edge=wide_edges, bipartite=True, wraps=True),
    "gine-edge-dim": Conv(
        "GINEConv", {"edge_dim": 3, "train_eps": True}, lambda e: wide_edges(e, 3), True, True
    ),
    "gine-mean": Conv("GINEConv", {"aggr": "mean"}, edge=wide_edges, bipartite=True, wraps=True),
    "gine-std": Conv("GINEConv", {"aggr": "std"}, edge=wide_edges, bipartite=True, wraps=True),
    "gatedgcn": Conv("GatedGCNConv", edge=wide_edges),
    "gatedgcn-edge-dim": Conv("GatedGCNConv", {"edge_dim": 3}, lambda e: wide_edges(e, 3)),
    "gatedgcn-backwards": Conv("GatedGCNConv", {"flow": "target_to_source"}, edge=wide_edges),
    "gat": Conv("GATConv", {"heads": 2}, first=HEADS),
    "gat-mean-residual": Conv("GATConv", {"heads": 3, "concat": False, "residual": True}),
    "gat-no-loops": Conv("GATConv", {"add_self_loops": False, "bias": False}, bipartite=True),
    **{
        f"gat-edges-{fill}": Conv(
            "GATConv", {"heads": 2, "edge_dim": 3, "fill_value": fill}, lambda e: wide_edges(e, 3),
            first=HEADS,
        )
        for fill in ("mean", "add", "max", 0.5)
    },
    "gatv2": Conv("GATv2Conv", {"heads": 2}, first=HEADS),
    "gatv2-shared": Conv("GATv2Conv", {"heads": 2, "share_weights": True, "residual": True},
                         first=HEADS),
    "gatv2-mean": Conv("GATv2Conv", {"heads": 3, "concat": False, "add_self_loops": False},
                       bipartite=True),
    "gatv2-edges": Conv("GATv2Conv", {"heads": 2, "edge_dim": 3}, lambda e: wide_edges(e, 3),
                        first=HEADS),
    "transformer": Conv("TransformerConv", {"heads": 2}, bipartite=True, first=HEADS),
    "transformer-beta": Conv("TransformerConv", {"heads": 2, "beta": True}, bipartite=True,
                             first=HEADS),
    "transformer-mean": Conv("TransformerConv", {"heads": 2, "concat": False}, bipartite=True),
    "transformer-edges": Conv("TransformerConv", {"heads": 2, "edge_dim": 3},
                              lambda e: wide_edges(e, 3), bipartite=True, first=HEADS),
    "transformer-no-root": Conv("TransformerConv", {"root_weight": False}),
    "resgated": Conv("ResGatedGraphConv", bipartite=True),
    "pna": pna(),
    "pna-all": pna(SIX, SCALERS),
    "pna-all-edges": pna(SIX, SCALERS, {"edge_dim": 3, "train_norm": True}),
    "pna-towers": pna(SIX, SCALERS, {"towers": 4}),
    "pna-towers-edges": pna(options={"towers": 4, "edge_dim": 3}),
    "pna-divided": pna(options={"towers": 4, "divide_input": True}),
    "pna-divided-edges": pna(SIX, SCALERS[:2], {"towers": 4, "divide_input": True, "edge_dim": 3}),
    "pna-post": pna(options={"towers": 2, "post_layers": 3, "act": "tanh"}),
    "pna-spread": pna(["std", "var"], ["identity"], {"towers": 2}),
    "pna-backwards": pna(options={"flow": "target_to_source"}),
    "lg": Conv("LGConv", first=()),
    "lg-weights": Conv("LGConv", first=(), edge=weights),
    "lg-plain": Conv("LGConv", {"normalize": False, "aggr": "max"}, first=()),
    "lg-backwards": Conv("LGConv", {"flow": "target_to_source"}, first=()),
    "appnp": Conv("APPNP", {"K": WIDTH, "alpha": 0.2}, first=()),
    "appnp-weights": Conv("APPNP", {"K": WIDTH, "alpha": 0.2}, first=(), edge=weights),
    "appnp-no-loops": Conv("APPNP", {"K": WIDTH, "alpha": 0.2, "add_self_loops": False}, first=()),
    "appnp-plain": Conv("APPNP", {"K": WIDTH, "alpha": 0.9, "normalize": False}, first=()),
    "appnp-mean": Conv("APPNP", {"K": WIDTH, "alpha": 0.2, "aggr": "mean"}, first=()),
    "appnp-cached": Conv("APPNP", {"K": WIDTH, "alpha": 0.2, "cached": True}, first=()),
    "cheb": Conv("ChebConv", {"K": 4}),
    "cheb-weights": Conv("ChebConv", {"K": 3}, edge=weights),
    "cheb-first": Conv("ChebConv", {"K": 1, "bias": False}),
    "cheb-second": Conv("ChebConv", {"K": 2}),
    "cheb-walk": Conv("ChebConv", {"K": 3, "normalization": "rw"}, edge=weights),
    "cheb-plain": Conv("ChebConv", {"K": 3, "normalization": None}, edge=weights),
    "cheb-backwards": Conv("ChebConv", {"K": 3, "flow": "target_to_source"}, edge=weights),
}  # fmt: skip
EVERY = pytest.mark.parametrize("conv", CONVS.values(), ids=CONVS.keys())
PEERS = pytest.mark.parametrize(
    "conv",
    [c for c in CONVS.values() if c.has_peer],
    ids=[k for k, c in CONVS.items() if c.has_peer],
)
BIPARTITE = pytest.mark.parametrize(
    "conv",
    [c for c in CONVS.values() if c.bipartite],
    ids=[k for k, c in CONVS.items() if c.bipartite],
)


def graph(nodes=14, edges=50, seed=0):
    """Duplicates, self-loops and isolated nodes (the last two) included."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, nodes - 2, (2, edges), generator=generator)


def inputs(conv: Conv, edge_index: Tensor, nodes=14) -> list[Tensor]:
    torch.manual_seed(1)
    x = torch.randn(nodes, WIDTH, dtype=torch.float64)
    return [x, edge_index] if conv.edge is None else [x, edge_index, conv.edge(edge_index.size(1))]


def run(layer: nn.Module, arguments: list) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Outputs, and the gradient of every floating input and parameter for one fixed cotangent."""
    pairs = [a if isinstance(a, tuple) else (a,) for a in arguments]
    leaves = [
        tuple(t.detach().clone().requires_grad_() if t.is_floating_point() else t for t in pair)
        for pair in pairs
    ]
    given = [
        pair if isinstance(a, tuple) else pair[0] for a, pair in zip(arguments, leaves, strict=True)
    ]
    out = layer(*given)
    out = out if isinstance(out, tuple) else (out,)
    generator = torch.Generator().manual_seed(2)
    cotangents = [torch.randn(o.shape, generator=generator, dtype=o.dtype) for o in out]
    named = {
        f"input {i}.{j}": t
        for i, p in enumerate(leaves)
        for j, t in enumerate(p)
        if t.requires_grad
    }
    named |= dict(layer.named_parameters())
    gradients = torch.autograd.grad(out, list(named.values()), cotangents, allow_unused=True)
    return tuple(o.detach() for o in out), dict(zip(named, gradients, strict=True))


def defined(layer: nn.Module) -> nn.Module:
    """The same layer by its definition: someone who looks at messages gets messages."""
    layer = copy.deepcopy(layer)
    layer.register_message_forward_hook(lambda module, arguments, out: None)
    return layer


def close(ours, theirs):
    for a, b in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in ours[1].items():
        other = theirs[1][name]
        assert (gradient is None) == (other is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-9, msg=name)


def is_fused(layer, arguments) -> bool:
    return layer.takes_fused_way(arguments[1], arguments[0])


@EVERY
def test_fused_equals_its_definition(conv):
    layer, arguments = conv.build(), inputs(conv, graph())
    slow = defined(layer)
    assert is_fused(layer, arguments)
    assert not is_fused(slow, arguments)
    close(run(layer, arguments), run(slow, arguments))


@PEERS
def test_equals_pyg_with_the_same_state_dict(conv):
    ours, theirs = conv.build(), conv.build(pyg)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    arguments = inputs(conv, graph())
    close(run(ours, arguments), run(theirs, arguments))


@PEERS
def test_starts_from_the_same_weights_as_pyg(conv):
    for (name, ours), theirs in zip(
        conv.build().state_dict().items(), conv.build(pyg).state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name


@BIPARTITE
def test_bipartite_equals_pyg(conv):
    ours, theirs = conv.build(), conv.build(pyg)
    ours.load_state_dict(theirs.state_dict())
    generator = torch.Generator().manual_seed(3)
    ends = [torch.randint(0, n, (40,), generator=generator) for n in (9, 6)]
    source, target = (
        torch.randn(n, WIDTH, dtype=torch.float64, generator=generator) for n in (9, 6)
    )
    arguments = [(source, target), torch.stack(ends)]
    if conv.edge is not None:
        arguments.append(conv.edge(40))
    close(run(ours, arguments), run(theirs, arguments))
    if "project" not in conv.options and conv.sized:
        only_sources = [(source, None), arguments[1], *arguments[2:]]
        extra = {"size": (9, 6)}
        assert torch.allclose(ours(*only_sources, **extra), theirs(*only_sources, **extra))


@EVERY
def test_graphs_without_edges_or_nodes(conv):
    none = torch.zeros(2, 0, dtype=torch.int64)
    for nodes in (5, 1, 0):
        layer = conv.build()
        arguments = inputs(conv, none, nodes)
        if nodes == 0 and conv.options.get("project"):
            continue  # PyG's projection is a ReLU of nothing, like ours
        outputs, gradients = run(layer, arguments)
        assert outputs[0].shape == (nodes, WIDTH)
        assert all(o.isfinite().all() for o in outputs)
        assert all(g is None or g.isfinite().all() for g in gradients.values())


@EVERY
def test_int32_edges_give_the_same_bits(conv):
    layer, arguments = conv.build(), inputs(conv, graph())
    wide = run(layer, arguments)
    layer = conv.build()  # a cached normalisation belongs to one graph
    arguments[1] = arguments[1].int()
    narrow = run(layer, arguments)
    assert all(torch.equal(a, b) for a, b in zip(wide[0], narrow[0], strict=True))


@EVERY
def test_renaming_the_nodes_renames_the_output(conv):
    edge_index = graph()
    if conv.name in (
        "GCNConv",
        "APPNP",
    ):  # of several loops at one node PyG keeps the weight of the last
        edge_index = edge_index[:, edge_index[0] != edge_index[1]]
    arguments = inputs(conv, edge_index)
    names = torch.randperm(14)
    moved = torch.empty_like(arguments[0])
    moved[names] = arguments[0]
    shuffle = torch.randperm(edge_index.size(1))
    renamed = [moved, names[edge_index][:, shuffle], *(a[shuffle] for a in arguments[2:])]
    out, again = run(conv.build(), arguments)[0], run(conv.build(), renamed)[0]
    torch.testing.assert_close(again[0][names], out[0], rtol=1e-10, atol=1e-10)
    if len(out) == 2:
        torch.testing.assert_close(again[1], out[1][shuffle], rtol=1e-10, atol=1e-10)


@EVERY
def test_gradcheck(conv):
    layer = conv.build()
    x, edge_index, *rest = inputs(conv, graph(6, 9), 6)
    leaves = [t.requires_grad_() for t in (x, *rest)]
    assert torch.autograd.gradcheck(lambda x, *r: layer(x, edge_index, *r), leaves, nondet_tol=0.0)


@EVERY
def test_copies_and_saved_weights_compute_the_same(conv, tmp_path):
    layer, arguments = conv.build(), inputs(conv, graph())
    expected = run(layer, arguments)[0]
    torch.save(layer.state_dict(), tmp_path / "weights.pt")
    loaded = conv.build()
    loaded.reset_parameters()
    loaded.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    for other in (copy.deepcopy(layer), loaded):
        assert all(
            torch.equal(a, b) for a, b in zip(run(other, arguments)[0], expected, strict=True)
        )


@EVERY
def test_reset_gives_the_weights_of_a_new_layer(conv):
    layer = conv.build()
    fresh = {name: value.clone() for name, value in layer.state_dict().items()}
    for parameter in layer.parameters():
        nn.init.constant_(parameter, 3.0)
    layer.reset_parameters()
    for name, value in layer.state_dict().items():
        assert value.shape == fresh[name].shape
        assert not (value == 3.0).all(), name


@EVERY
def test_name_and_sizes_are_shown(conv):
    text = repr(conv.build())
    assert text.startswith(f"{conv.name}(")
    assert str(WIDTH) in text or not conv.first and not conv.options.get("K")


@EVERY
def test_explainer_sees_messages(conv):
    """GNNExplainer scales messages by an edge mask, which only the definition has."""
    if conv.has_peer:
        conv.build(pyg)  # PyG writes generated methods into its class, which ours inherits from
    if conv.options.get("cached"):
        pytest.skip("a cached normalisation is refused by PyG's explainers too")
    if conv.options.get("K") == 1:
        pytest.skip("sends no messages")
    from torch_geometric.explain import Explainer, GNNExplainer

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv.build().float()

        def forward(self, x, edge_index, edge_attr=None):
            out = (
                self.conv(x, edge_index)
                if edge_attr is None
                else self.conv(x, edge_index, edge_attr)
            )
            return out[0] if isinstance(out, tuple) else out

    model = Model()
    x, edge_index, *rest = inputs(conv, graph())
    x = x.float()
    extra = {"edge_attr": rest[0].float()} if rest else {}
    before = model(x, edge_index, **extra)
    explainer = Explainer(
        model,
        algorithm=GNNExplainer(epochs=3),
        explanation_type="model",
        node_mask_type="attributes",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node", "return_type": "raw"},
    )
    explanation = explainer(x, edge_index, **extra)
    assert explanation.edge_mask.shape == (edge_index.size(1),)
    assert explanation.edge_mask.abs().sum() > 0
    assert torch.equal(model(x, edge_index, **extra), before)  # and it is fused again
    assert model.conv.takes_fused_way(edge_index, x)


@EVERY
def test_bad_edges_are_refused_with_their_place(conv):
    if conv.options.get("cached"):
        pytest.skip("PyG's cached normalisation runs before ours")
    layer = conv.build()
    for row, bad in ((0, 14), (1, -1)):
        arguments = inputs(conv, graph())
        arguments[1][row, 3] = bad
        with pytest.raises(InputError, match=f"{bad} in row {row} at edge 3"):
            layer(*arguments)


@EVERY
def test_the_graph_is_sorted_once_for_all_layers(conv, monkeypatch):
    built = []
    original = CSR.__init__
    monkeypatch.setattr(
        CSR, "__init__", lambda self, *a, **k: (built.append(1), original(self, *a, **k))[1]
    )
    layer, arguments = conv.build(), inputs(conv, graph())
    run(layer, arguments)
    first = len(built)
    for _ in range(3):
        run(layer, arguments)
    assert first > 0
    if (
        conv.options.get("add_self_loops", True)
        and conv.name == "GCNConv"
        and conv.edge is not None
    ):
        return  # weights are normalised anew, on the remembered graph with its loops
    assert len(built) == first


@pytest.mark.parametrize(
    ("name", "options", "edge"),
    [
        ("GATConv", {"heads": 2, "flow": "target_to_source"}, None),
        ("GATConv", {"heads": 2, "aggr": "max"}, None),
        ("ResGatedGraphConv", {"edge_dim": 3}, lambda e: wide_edges(e, 3)),
        ("ResGatedGraphConv", {"act": nn.Tanh()}, None),
        ("SAGEConv", {"aggr": "std", "aggr_kwargs": {"semi_grad": True}}, None),
        (
            "SAGEConv",
            {"aggr": ["var", "max"], "aggr_kwargs": {"aggrs_kwargs": [{"semi_grad": True}, {}]}},
            None,
        ),
    ],
)
def test_what_the_kernels_do_not_know_is_computed_as_pyg_does(name, options, edge):
    conv = Conv(name, options, edge)
    ours, theirs = conv.build(), conv.build(pyg)
    ours.load_state_dict(theirs.state_dict())
    arguments = inputs(conv, graph())
    close(run(ours, arguments), run(theirs, arguments))


@pytest.mark.parametrize("name", ["GATConv", "GATv2Conv", "TransformerConv"])
def test_attention_weights_on_request_are_those_of_pyg(name):
    conv = Conv(name, {"heads": 2})
    ours, theirs = conv.build(), conv.build(pyg)
    ours.load_state_dict(theirs.state_dict())
    arguments = inputs(conv, graph())
    out, (edges, weights_of_edges) = ours(*arguments, return_attention_weights=True)
    wanted, (wanted_edges, wanted_weights) = theirs(*arguments, return_attention_weights=True)
    assert torch.equal(edges, wanted_edges)
    assert torch.allclose(weights_of_edges, wanted_weights)
    assert torch.allclose(out, wanted)
    assert torch.allclose(ours(*arguments), out)


@pytest.mark.parametrize("name", ["GATConv", "GATv2Conv", "TransformerConv"])
def test_dropout_of_attention_weights(name):
    """Training differs from evaluation, follows torch's seed, and averages to evaluation."""
    layer = Conv(name, {"heads": 2, "dropout": 0.5}).build()
    arguments = inputs(Conv(name), graph())
    layer.train()
    torch.manual_seed(5)
    first = layer(*arguments)
    torch.manual_seed(5)
    assert torch.equal(layer(*arguments), first)
    assert not torch.allclose(layer(*arguments), first)
    mean = torch.stack([layer(*arguments).detach() for _ in range(3000)]).mean(0)
    layer.eval()
    assert torch.allclose(mean, layer(*arguments), atol=0.12)


class Doubled(nn.Linear):
    """Stands for adapters, which compute more than the product with ``weight``."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize("name", ["gcn", "sage", "gatedgcn", "gat-edges-mean", "gatv2-edges",
                                  "transformer-edges", "resgated"])  # fmt: skip
def test_layers_put_in_place_of_a_map_are_called(name):
    conv = CONVS[name]
    layer, arguments = conv.build(), inputs(conv, graph())
    for key, child in list(layer.named_children()):
        if isinstance(child, (nn.Linear, pyg.Linear)):
            other = Doubled(child.weight.size(1), child.weight.size(0), child.bias is not None)
            other.double().load_state_dict(child.state_dict())
            setattr(layer, key, other)
    ours = run(layer, arguments)
    close(ours, run(defined(layer), arguments))
    assert not torch.allclose(ours[0][0], run(conv.build(), arguments)[0][0])


@pytest.mark.parametrize("name", ["sage", "gatedgcn", "gcn"])
def test_what_a_hook_was_shown_does_not_change_later(name):
    conv = CONVS[name]
    layer, arguments = conv.build(), inputs(conv, graph())
    seen = []

    def remember(_module, _inputs, out):
        seen.append((out, out.detach().clone()))

    for child in layer.children():
        child.register_forward_hook(remember)
    layer(*arguments)
    assert seen
    assert all(torch.equal(out, copied) for out, copied in seen)
