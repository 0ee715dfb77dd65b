"""PNAConv, LGConv, APPNP and ChebConv: what the contract of all convolutions does not ask."""

import pytest
import torch
import torch_geometric.nn as pyg
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import graphkit.nn as gk

AGGREGATORS, SCALERS = ["mean", "min", "max", "std"], ["identity", "amplification", "attenuation"]
DEGREES = torch.tensor([1, 4, 6, 3])


def graph(nodes=30, edges=400, seed=0):
    return torch.randint(0, nodes, (2, edges), generator=torch.Generator().manual_seed(seed))


def pair(name, *arguments, **options):
    torch.manual_seed(0)
    ours = getattr(gk, name)(*arguments, **options)
    theirs = getattr(pyg, name)(*arguments, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


class Shapes(TorchDispatchMode):
    """Shapes of everything that torch's ops return."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.seen.add(tuple(tensor.shape))
        return out


def test_pna_makes_nothing_with_a_row_per_edge_nor_all_scaled_reduces():
    ours, theirs = pair("PNAConv", 8, 8, AGGREGATORS, SCALERS, DEGREES, towers=2)
    edge_index, x = graph(), torch.randn(30, 8, requires_grad=True)
    with Shapes() as fused:
        ours(x, edge_index).sum().backward()
    with Shapes() as defined:
        theirs(x, edge_index).sum().backward()
    whole = len(AGGREGATORS) * len(SCALERS) * 8
    assert any(shape[:1] == (400,) and len(shape) > 1 for shape in defined.seen)
    assert any(shape[-1:] in ((whole,), (whole + 8,)) for shape in defined.seen)
    assert not any(shape[:1] == (400,) for shape in fused.seen)
    assert not any(shape[:1] == (30,) and shape[-1] >= whole for shape in fused.seen)


def test_pna_in_float32_is_as_close_to_float64_as_pyg():
    ours, theirs = pair("PNAConv", 16, 16, AGGREGATORS, SCALERS, DEGREES, towers=4, edge_dim=3)
    edge_index, x, edge = graph(), torch.randn(30, 16), torch.randn(400, 3)
    mine, pygs = ours(x, edge_index, edge), theirs(x, edge_index, edge)
    torch.testing.assert_close(mine, pygs, rtol=1e-5, atol=1e-5)
    exact = theirs.double()(x.double(), edge_index, edge.double())
    assert (mine - exact).abs().max() <= 2 * (pygs - exact).abs().max() + 1e-7


@pytest.mark.parametrize(
    "options",
    [
        {"pre_layers": 2, "towers": 2},
        {"pre_layers": 3, "post_layers": 2, "act": "elu", "edge_dim": 3},
        {"aggregators": ["mean", "median"]},
        {"aggregators": ["mean", "mean"]},
    ],
    ids=["pre", "pre-edges", "median", "twice"],
)
def test_pna_of_another_form_is_computed_as_pyg_does(options):
    options = dict(options)
    aggregators = options.pop("aggregators", AGGREGATORS)
    ours, theirs = pair("PNAConv", 8, 8, aggregators, SCALERS, DEGREES, **options)
    arguments = [torch.randn(30, 8), graph()]
    if "edge_dim" in options:
        arguments.append(torch.randn(400, 3))
    torch.testing.assert_close(ours(*arguments), theirs(*arguments))


def test_pna_calls_the_hooks_of_its_maps():
    ours, theirs = pair("PNAConv", 8, 8, AGGREGATORS, SCALERS, DEGREES, edge_dim=3)
    arguments = torch.randn(30, 8), graph(), torch.randn(400, 3)
    for conv in (ours, theirs):
        conv.edge_encoder.register_forward_hook(lambda module, inputs, out: out.relu())
    torch.testing.assert_close(ours(*arguments), theirs(*arguments))


def test_degree_histogram_is_pygs():
    from torch_geometric.data import Data

    data = Data(edge_index=graph(), num_nodes=30)
    histogram = gk.PNAConv.get_degree_histogram([data])
    assert torch.equal(histogram, pyg.PNAConv.get_degree_histogram([data]))


@pytest.mark.parametrize("normalization", [None, "sym", "rw"])
@pytest.mark.parametrize("form", ["number", "tensor", "batch"])
def test_cheb_with_the_largest_eigenvalue_given(normalization, form):
    ours, theirs = (c.double() for c in pair("ChebConv", 8, 4, K=3, normalization=normalization))
    edge_index, x = graph(), torch.randn(30, 8, dtype=torch.float64)
    batch = (torch.arange(30) > 11).long()
    edge_index = edge_index[:, batch[edge_index[0]] == batch[edge_index[1]]]
    largest = {
        "number": 2.5,
        "tensor": torch.tensor(1.7),
        "batch": torch.tensor([1.9, 2.4]),
    }[form]
    arguments = (x, edge_index, None, batch, largest)
    torch.testing.assert_close(ours(*arguments), theirs(*arguments))


def test_cheb_of_a_graph_without_edges_is_minus_the_features():
    conv = gk.ChebConv(4, 4, K=2, normalization=None, bias=False)
    x = torch.randn(3, 4)
    out = conv(x, torch.zeros(2, 0, dtype=torch.int64))
    torch.testing.assert_close(out, conv.lins[0](x) - conv.lins[1](x))


@pytest.mark.parametrize("weighted", [False, True])
def test_appnp_drops_the_edges_that_pyg_drops(weighted):
    ours, theirs = pair("APPNP", K=5, alpha=0.1, dropout=0.4)
    x, edge_index = torch.randn(30, 8), graph()
    weight = torch.rand(400) if weighted else None
    results = []
    for conv in (ours, theirs):
        torch.manual_seed(3)
        results.append(conv(x, edge_index, weight))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(results[0], ours.eval()(x, edge_index, weight))


@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [("APPNP", (), {"K": 3, "alpha": 0.1}), ("LGConv", (), {}),
     ("APPNP", (), {"K": 3, "alpha": 0.1, "aggr": "max"})],
)  # fmt: skip
def test_inputs_stay_as_they_were(name, arguments, options):
    conv, x = getattr(gk, name)(*arguments, **options), torch.randn(30, 8)
    before = x.clone()
    conv(x, graph())
    assert torch.equal(x, before)


def test_a_light_model_learns_its_embeddings():
    """LightGCN has no weights but the embeddings: gradients reach them through the layers."""
    edge_index = graph()
    embedding = nn.Parameter(torch.randn(30, 4, dtype=torch.float64))
    ours, theirs = gk.LGConv(), pyg.LGConv()
    gradients = []
    for conv in (ours, theirs):
        out = conv(conv(embedding, edge_index), edge_index)
        gradients.append(torch.autograd.grad(out.square().sum(), embedding)[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", ["LGConv", "APPNP", "ChebConv"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_types_are_promoted_as_pyg_does(name, dtype):
    """Under autocast features come as bfloat16; weights of another type decide with them."""
    if name == "ChebConv" and dtype == torch.float64:
        pytest.skip("PyG's maps refuse what the propagation makes")
    options = {"LGConv": {}, "APPNP": {"K": 2, "alpha": 0.1}}.get(name)
    ours, theirs = pair(name, 8, 4, K=2) if options is None else pair(name, **options)
    x, weight = torch.randn(30, 8), torch.rand(400, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        x = x.bfloat16() if dtype == torch.float32 else x
        mine, pygs = ours(x, graph(), weight), theirs(x, graph(), weight)
    assert mine.dtype == pygs.dtype
    torch.testing.assert_close(mine, pygs, rtol=1e-2, atol=1e-2)


def test_a_hook_on_the_only_map_of_cheb_keeps_what_it_was_shown():
    conv, seen = gk.ChebConv(8, 4, K=1), []
    nn.init.ones_(conv.bias)
    conv.lins[0].register_forward_hook(lambda m, i, out: seen.append((out, out.clone())))
    conv(torch.randn(30, 8), graph())
    assert torch.equal(*seen[0])
