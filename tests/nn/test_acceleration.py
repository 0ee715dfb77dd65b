"""accelerate: same objects, same weights, same outputs and gradients, and the way back."""

import copy

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch_geometric.data import HeteroData

import graphkit
import graphkit.nn as gk
from graphkit.errors import InputError

DEGREES = torch.tensor([2, 0, 1, 3, 4, 2, 1])
AGGREGATORS, SCALERS = ["mean", "min", "max", "std"], ["identity", "amplification", "attenuation"]
NODES, EDGES, WIDTH = 14, 50, 8


def graph(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, NODES - 2, (2, EDGES), generator=generator)


def features(seed=1):
    return torch.randn(NODES, WIDTH, generator=torch.Generator().manual_seed(seed))


def edges(width=3):
    return torch.randn(EDGES, width, generator=torch.Generator().manual_seed(2))


def mlp():
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU())


class Attributed(nn.Module):
    """Passes edge features or weights on to a convolution."""

    def __init__(self, conv, edge):
        super().__init__()
        self.conv, self.edge = conv, edge

    def forward(self, x, edge_index):
        return self.conv(x, edge_index, self.edge)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = self.second = pyg.GCNConv(WIDTH, WIDTH)

    def forward(self, x, edge_index):
        return self.second(self.first(x, edge_index).relu(), edge_index)


CONVS = {
    "gcn": lambda: pyg.GCNConv(WIDTH, 4),
    "gcn-weights": lambda: Attributed(pyg.GCNConv(WIDTH, 4), edges(1).exp().view(-1)),
    "gcn-cached": lambda: pyg.GCNConv(WIDTH, 4, cached=True),
    "gcn-lazy": lambda: pyg.GCNConv(-1, 4),
    "sage": lambda: pyg.SAGEConv(WIDTH, 4, aggr=["mean", "max"]),
    "gin": lambda: pyg.GINConv(mlp()),
    "gine": lambda: Attributed(pyg.GINEConv(mlp(), edge_dim=3), edges()),
    "gat": lambda: Attributed(pyg.GATConv(WIDTH, 4, heads=2, edge_dim=3), edges()),
    "gat-lazy": lambda: pyg.GATConv((-1, -1), 4, heads=2),
    "gatv2": lambda: pyg.GATv2Conv(WIDTH, 4, heads=2, residual=True),
    "transformer": lambda: pyg.TransformerConv(WIDTH, 4, heads=2, beta=True),
    "resgated": lambda: pyg.ResGatedGraphConv(WIDTH, 4),
    "pna": lambda: Attributed(
        pyg.PNAConv(WIDTH, WIDTH, AGGREGATORS, SCALERS, DEGREES, edge_dim=3, towers=2), edges()
    ),
    "lg": lambda: pyg.LGConv(),
    "appnp": lambda: pyg.APPNP(3, 0.1),
    "cheb": lambda: pyg.ChebConv(WIDTH, 4, K=3),
}
CONTAINERS = {
    "Sequential": lambda: pyg.Sequential(
        "x, edge_index",
        [(pyg.GCNConv(WIDTH, 8), "x, edge_index -> x"), nn.ReLU(),
         (pyg.SAGEConv(8, 4), "x, edge_index -> x")],
    ),
    "GCN": lambda: pyg.GCN(WIDTH, 8, 3, 4, norm="batch_norm"),
    "GraphSAGE": lambda: pyg.GraphSAGE(WIDTH, 8, 2, jk="cat"),
    "GIN": lambda: pyg.GIN(WIDTH, 8, 2),
    "GAT": lambda: pyg.GAT(WIDTH, 8, 2, heads=2),
    "GATv2": lambda: pyg.GAT(WIDTH, 8, 2, heads=2, v2=True),
    "PNA": lambda: pyg.PNA(
        WIDTH, 8, 2, aggregators=AGGREGATORS, scalers=SCALERS, deg=DEGREES, towers=2
    ),
    "GPS": lambda: pyg.GPSConv(WIDTH, pyg.GINConv(mlp()), heads=2),
    "shared": Shared,
}  # fmt: skip
MODELS = {**CONVS, **CONTAINERS}
EVERY = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())


def made(build):
    torch.manual_seed(7)
    return build()


def convs(model):
    return [m for m in model.modules() if isinstance(m, pyg.MessagePassing)]


def run(model, *arguments):
    """Outputs and gradients of inputs and parameters; the seed is the same for each call."""
    arguments = [
        a.clone().requires_grad_() if isinstance(a, torch.Tensor) and a.is_floating_point() else a
        for a in arguments
    ]
    torch.manual_seed(3)
    out = model(*arguments)
    out = list(out.values()) if isinstance(out, dict) else [out]
    leaves = [a for a in arguments if isinstance(a, torch.Tensor) and a.requires_grad]
    named = [*leaves, *model.parameters()]
    total = sum((o * torch.arange(o.numel()).view_as(o).cos()).sum() for o in out)
    return out, torch.autograd.grad(total, named, allow_unused=True)


def equal(first, second):
    for a, b in zip(first[0], second[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    for a, b in zip(first[1], second[1], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            # A gradient sums over all nodes and edges, so its rounding is that of its largest term.
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, float(b.abs().max())))


@EVERY
def test_outputs_gradients_and_keys_stay(build):
    model, arguments = made(build), (features(), graph())
    if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
        report = graphkit.accelerate(model)  # before the widths are known
        torch.manual_seed(7)
        with torch.no_grad():
            model(*arguments)
        theirs = copy.deepcopy(model)
        assert graphkit.restore(theirs)
    else:
        theirs = copy.deepcopy(model)
        report = graphkit.accelerate(model)
    assert report.replaced
    assert not report.left, str(report)
    assert all(isinstance(conv, gk.MessagePassing) for conv in convs(model))
    assert not any(isinstance(conv, gk.MessagePassing) for conv in convs(theirs))
    assert list(model.state_dict()) == list(theirs.state_dict())
    equal(run(model, *arguments), run(theirs, *arguments))
    equal(run(model.eval(), *arguments), run(theirs.eval(), *arguments))


@EVERY
def test_objects_parameters_and_mode_stay_and_undo_gives_the_classes_back(build):
    model = made(build).eval()
    objects = {name: id(m) for name, m in model.named_modules(remove_duplicate=False)}
    classes = [type(m) for m in model.modules()]
    parameters = [id(p) for p in model.parameters()]
    report = graphkit.accelerate(model)
    assert [type(m) for m in model.modules()] != classes
    assert graphkit.accelerate(model).replaced == []  # nothing is left to do
    for way_back in (report.undo, lambda: graphkit.restore(model)):
        assert {n: id(m) for n, m in model.named_modules(remove_duplicate=False)} == objects
        assert [id(p) for p in model.parameters()] == parameters
        assert not any(m.training for m in model.modules())
        way_back()
        assert [type(m) for m in model.modules()] == classes
        way_back()  # once more does nothing
        assert [type(m) for m in model.modules()] == classes
        assert not any("_accelerated" in vars(m) for m in model.modules())
        graphkit.accelerate(model)


@EVERY
def test_copies_and_saved_weights(build, tmp_path):
    model = made(build)
    arguments = features(), graph()
    model(*arguments)
    graphkit.accelerate(model)
    model.eval()
    expected = model(*arguments)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(*arguments), expected)
    graphkit.restore(twin)
    assert all(isinstance(conv, gk.MessagePassing) for conv in convs(model))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    fresh = made(build)
    fresh(*arguments)
    for parameter in fresh.parameters():
        nn.init.constant_(parameter, 0.5)
    fresh.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    torch.testing.assert_close(fresh.eval()(*arguments), expected, rtol=1e-5, atol=1e-5)


def test_a_shared_layer_is_replaced_once():
    report = graphkit.accelerate(Shared())
    assert [conv.name for conv in report.replaced] == ["first"]


def test_an_optimiser_from_before_goes_on():
    losses = []
    for fast in (False, True):
        model = made(CONTAINERS["GCN"])
        optimiser = torch.optim.Adam(model.parameters(), 0.05)
        if fast:
            graphkit.accelerate(model)
        for _ in range(5):
            optimiser.zero_grad()
            loss = model(features(), graph()).square().mean()
            loss.backward()
            optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def hetero():
    data = HeteroData()
    data["paper"].x, data["author"].x = features(1), features(2)
    data["paper", "cites", "paper"].edge_index = graph(1)
    data["author", "writes", "paper"].edge_index = graph(2)
    data["paper", "rev_writes", "author"].edge_index = graph(2).flip(0)
    return data


def check_hetero(model, replaced):
    data = hetero()
    arguments = data.x_dict, data.edge_index_dict
    with torch.no_grad():
        model(*arguments)
    theirs = copy.deepcopy(model)
    report = graphkit.accelerate(model)
    assert len(report.replaced) == replaced
    assert not report.left
    assert list(model.state_dict()) == list(theirs.state_dict())
    equal(run(model, *arguments), run(theirs, *arguments))
    report.undo()
    assert [type(m) for m in convs(model)] == [type(m) for m in convs(theirs)]


@pytest.mark.parametrize("lazy", [False, True])
def test_to_hetero(lazy):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            width = (-1, -1) if lazy else WIDTH
            self.conv1 = pyg.SAGEConv(width, 8)
            self.conv2 = pyg.GATConv(width, 8, add_self_loops=False)

        def forward(self, x, edge_index):
            return self.conv2(self.conv1(x, edge_index).relu(), edge_index)

    torch.manual_seed(0)
    check_hetero(pyg.to_hetero(Net(), hetero().metadata()), 6)


def test_hetero_conv():
    torch.manual_seed(0)
    model = pyg.HeteroConv({
        ("paper", "cites", "paper"): pyg.GCNConv(WIDTH, 4),
        ("author", "writes", "paper"): pyg.SAGEConv((WIDTH, WIDTH), 4),
        ("paper", "rev_writes", "author"): pyg.GATv2Conv((-1, -1), 4, add_self_loops=False),
    })  # fmt: skip
    check_hetero(model, 3)


class Loud(pyg.GCNConv):
    def message(self, x_j, edge_weight):
        return 2 * super().message(x_j, edge_weight)


def with_message_hook():
    conv = pyg.GCNConv(WIDTH, 4)
    conv.register_message_forward_hook(lambda module, inputs, out: 2 * out)
    return conv


def with_forward_hook():
    conv = pyg.GCNConv(WIDTH, 4)
    conv.register_forward_hook(lambda module, inputs, out: 2 * out)
    return conv


def with_inner_hook():
    conv = pyg.SAGEConv(WIDTH, 4)
    conv.lin_l.register_forward_hook(lambda module, inputs, out: 2 * out)
    return conv


def with_own_message():
    conv = pyg.GCNConv(WIDTH, 4)
    conv.message = lambda x_j, edge_weight: 2 * x_j
    return conv


def explained():
    conv = pyg.SAGEConv(WIDTH, 4)
    conv.explain = True
    conv._edge_mask, conv._loop_mask = torch.ones(EDGES), torch.ones(EDGES, dtype=torch.bool)
    return conv


def with_another_map():
    conv = pyg.GATConv(WIDTH, 4)

    class Half(nn.Linear):
        def forward(self, x):
            return super().forward(x) / 2

    conv.lin = Half(WIDTH, 4, bias=False)
    return conv


def parametrised():
    conv = pyg.GCNConv(WIDTH, 4)
    nn.utils.parametrize.register_parametrization(conv, "bias", nn.ReLU())
    return conv


LEFT = {
    "subclass": (lambda: Loud(WIDTH, 4), "subclass of GCNConv"),
    "message hook": (with_message_hook, "it has hooks"),
    "forward hook": (with_forward_hook, "it has hooks"),
    "inner hook": (with_inner_hook, "lin_l has hooks"),
    "own message": (with_own_message, "its message was replaced on the object"),
    "explain": (explained, "its propagate was replaced on the object"),
    "parametrised": (parametrised, "subclass of GCNConv"),
    "map": (with_another_map, "lin is a Half"),
    "decomposed": (lambda: pyg.GCNConv(WIDTH, 4, decomposed_layers=2), "propagate was replaced"),
    "flow": (lambda: pyg.SAGEConv(WIDTH, 4, flow="target_to_source"), "flow='target_to_source'"),
    "aggr": (lambda: pyg.SAGEConv(WIDTH, 4, aggr="median"), "aggr='median' has no kernel"),
    "attention aggr": (lambda: pyg.GATConv(WIDTH, 4, aggr="max"), "aggr='max' has no kernel"),
    "semi-gradient": (
        lambda: pyg.SAGEConv(WIDTH, 4, aggr="std", aggr_kwargs={"semi_grad": True}),
        "semi-gradient",
    ),
    "unknown": (lambda: pyg.GraphConv(WIDTH, 4), "no fused GraphConv"),
    "pna": (
        lambda: pyg.PNAConv(WIDTH, 4, AGGREGATORS, SCALERS, DEGREES, pre_layers=2),
        "pre_layers > 1",
    ),
    "gated act": (lambda: pyg.ResGatedGraphConv(WIDTH, 4, act=nn.Tanh()), "act=Tanh"),
}


@pytest.mark.parametrize(("build", "why"), LEFT.values(), ids=LEFT.keys())
def test_what_is_left_says_why_and_computes_what_it_did(build, why):
    model = nn.ModuleDict({"conv": made(build)})
    conv, kind = model["conv"], type(model["conv"])
    before = run(conv, features(), graph())
    report = graphkit.accelerate(model)
    assert report.replaced == []
    assert [(c.name, c.kind) for c in report.left] == [("conv", kind.__name__)]
    assert why in report.left[0].why
    assert type(conv) is kind
    assert all(
        a is b is None or torch.equal(a, b)
        for part, again in zip(before, run(conv, features(), graph()), strict=True)
        for a, b in zip(part, again, strict=True)
    )


def test_inputs_that_the_kernels_do_not_take_are_computed_as_before():
    x, edge_index = features(), graph()
    gcn, gat = pyg.GCNConv(WIDTH, 4), pyg.GATConv(WIDTH, 4)
    sparse = torch.sparse_coo_tensor(edge_index.flip(0), torch.ones(EDGES), (NODES, NODES))
    sparse = sparse.coalesce().to_sparse_csr()
    wide = torch.randn(2, NODES, WIDTH)

    def all_of_them():
        weights = gat(x, edge_index, return_attention_weights=True)
        return [gcn(x, sparse), gcn(wide, edge_index), weights[0], *weights[1]]

    before = all_of_them()
    for conv in (gcn, gat):
        graphkit.accelerate(conv)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(before, all_of_them(), strict=True))


def test_an_explainer_works_on_an_accelerated_model():
    from torch_geometric.explain import Explainer, GNNExplainer

    model = made(CONTAINERS["GCN"]).eval()
    report = graphkit.accelerate(model)
    x, edge_index = features(), graph()
    before = model(x, edge_index)
    explainer = Explainer(
        model, GNNExplainer(epochs=2), explanation_type="model", edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node", "return_type": "raw"},
    )  # fmt: skip
    assert explainer(x, edge_index).edge_mask.abs().sum() > 0
    assert torch.equal(model(x, edge_index), before)
    report.undo()
    torch.testing.assert_close(model(x, edge_index), before, rtol=1e-5, atol=1e-5)


def test_the_report_is_a_table():
    model = nn.ModuleDict({"first": pyg.GCNConv(WIDTH, 4), "b": pyg.GraphConv(WIDTH, 4)})
    lines = str(graphkit.accelerate(model)).splitlines()
    assert lines == [
        "first  GCNConv    fused",
        "b      GraphConv  left: no fused GraphConv",
        "1 fused, 1 left",
    ]
    assert str(graphkit.accelerate(pyg.GCNConv(1, 1))).startswith("(model)  GCNConv  fused")
    assert str(graphkit.accelerate(nn.Linear(1, 1))) == "no convolutions to replace"


def test_layers_built_as_graphkits_own_are_not_turned_into_pygs():
    model = nn.ModuleList([gk.GCNConv(WIDTH, 4), pyg.GCNConv(WIDTH, 4)])
    assert [conv.name for conv in graphkit.accelerate(model).replaced] == ["1"]
    assert graphkit.restore(model) == ["1"]
    assert [type(m) for m in model] == [gk.GCNConv, pyg.GCNConv]


@pytest.mark.parametrize("function", [graphkit.accelerate, graphkit.restore])
def test_only_modules(function):
    with pytest.raises(InputError, match=r"model: int, wanted a torch\.nn\.Module"):
        function(3)
