"""HANConv and HGTConv against PyG's definitions, and where they step back to them."""

from __future__ import annotations

import pytest
import torch
import torch_geometric.nn as pyg

from graphkit import nn as fused
from graphkit import ops
from graphkit.acceleration import accelerate, restore

NODES = {"author": 7, "paper": 5, "alone": 3}
WIDTHS = {"author": 4, "paper": 3, "alone": 2}
KINDS = (
    list(NODES),
    [("author", "path_0", "author"), ("paper", "to", "author"), ("author", "to", "paper")],
)


def edges() -> dict[tuple[str, str, str], torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        kind: torch.stack(
            [torch.randint(NODES[end], (14,), generator=draw) for end in (kind[0], kind[2])]
        )
        for kind in KINDS[1]
    }


def features() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        kind: torch.randn(n, WIDTHS[kind], generator=draw, dtype=torch.float64).requires_grad_()
        for kind, n in NODES.items()
    }


def pair(**options: float) -> tuple[fused.HANConv, pyg.HANConv]:
    torch.manual_seed(2)
    ours = fused.HANConv(WIDTHS, 8, KINDS, heads=2, **options).double()
    theirs = pyg.HANConv(WIDTHS, 8, KINDS, heads=2, **options).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("slope", [0.2, 0.05])
def test_equals_the_definition_forward_and_backward(slope, monkeypatch):
    ours, theirs = pair(negative_slope=slope)
    x = features()
    wanted, weights = theirs(x, edges(), return_semantic_attention_weights=True)
    wanted_grads = _gradients(wanted, x, theirs)

    def no_message(*args, **kwargs):
        raise AssertionError("the definition ran")

    monkeypatch.setattr(fused.HANConv, "message", no_message)
    found, own = ours(x, edges(), return_semantic_attention_weights=True)
    assert found["alone"] is None
    for kind in ("author", "paper"):
        torch.testing.assert_close(found[kind], wanted[kind], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(own[kind], weights[kind], rtol=1e-12, atol=1e-12)
    for mine, their in zip(_gradients(found, x, ours), wanted_grads, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-10, atol=1e-12)


def _gradients(out, x, conv):
    used = [x["author"], x["paper"]]
    used += [p for name, p in conv.named_parameters() if "alone" not in name]
    total = sum(rows.square().sum() for rows in out.values() if rows is not None)
    return torch.autograd.grad(total, used)


def test_dropout_keeps_the_mean_and_sleeps_in_eval():
    ours, theirs = pair(dropout=0.5)
    x = {kind: rows.detach() for kind, rows in features().items()}
    only = {KINDS[1][1]: edges()[KINDS[1][1]]}
    torch.testing.assert_close(ours.eval()(x, only)["author"], theirs.eval()(x, only)["author"])
    ours.train()
    one, other = (ours(x, only)["author"] for _ in range(2))
    assert not torch.equal(one, other)
    torch.manual_seed(0)
    first = ours(x, only)["author"]
    torch.manual_seed(0)
    assert torch.equal(first, ours(x, only)["author"])


@pytest.mark.parametrize("change", ["flow", "hook"])
def test_steps_back_to_the_definition(change, monkeypatch):
    options = {"flow": "target_to_source"} if change == "flow" else {}
    conv = fused.HANConv(4, 8, (["n"], [("n", "r", "n")]), heads=2, **options).double()
    seen = []
    if change == "hook":
        conv.register_message_forward_hook(lambda module, args, out: seen.append(1))
    called = []
    attention = ops.attention
    monkeypatch.setattr(ops, "attention", lambda *a, **k: called.append(1) or attention(*a, **k))
    x = {"n": torch.randn(5, 4, dtype=torch.float64)}
    edge = {("n", "r", "n"): torch.tensor([[0, 1, 2], [1, 2, 0]])}
    theirs = pyg.HANConv(4, 8, (["n"], [("n", "r", "n")]), heads=2, **options).double()
    theirs.load_state_dict(conv.state_dict())
    torch.testing.assert_close(conv(x, edge)["n"], theirs(x, edge)["n"])
    assert not called
    assert bool(seen) == (change == "hook")


def test_accelerate_takes_it_and_gives_it_back():
    _, theirs = pair()
    report = accelerate(theirs)
    assert type(theirs) is fused.HANConv
    assert [conv.kind for conv in report.replaced] == ["HANConv"]
    assert restore(theirs) == [""]
    assert type(theirs) is pyg.HANConv


def test_compiles_whole():
    ours, _ = pair()
    x = {kind: rows.detach() for kind, rows in features().items()}
    wanted = ours(x, edges())
    found = torch.compile(ours, backend="eager")(x, edges())
    torch.testing.assert_close(found["author"], wanted["author"])


# -- HGTConv --------------------------------------------------------------------------------------


def hgt_pair() -> tuple[fused.HGTConv, pyg.HGTConv]:
    torch.manual_seed(3)
    ours = fused.HGTConv(WIDTHS, 8, KINDS, heads=2).double()
    with torch.no_grad():
        for parameter in (*ours.p_rel.values(), *ours.skip.values()):
            parameter.uniform_(0.3, 2.0)
    theirs = pyg.HGTConv(WIDTHS, 8, KINDS, heads=2).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def test_hgt_equals_the_definition_forward_and_backward(monkeypatch):
    ours, theirs = hgt_pair()
    x = features()
    wanted = theirs(x, edges())

    def gradients(out, conv):
        used = [x["author"], x["paper"]]
        used += [p for name, p in conv.named_parameters() if "alone" not in name]
        total = sum(rows.square().sum() for rows in out.values() if rows is not None)
        return torch.autograd.grad(total, used, allow_unused=True)

    wanted_gradients = gradients(wanted, theirs)

    def no_message(*args, **kwargs):
        raise AssertionError("the definition ran")

    monkeypatch.setattr(fused.HGTConv, "message", no_message)
    found = ours(x, edges())
    assert set(found) == set(wanted)
    for kind in ("author", "paper"):
        torch.testing.assert_close(found[kind], wanted[kind], rtol=1e-12, atol=1e-12)
    relations = 0
    for (name, _), mine, their in zip(
        [("author", 0), ("paper", 0), *[p for p in ours.named_parameters() if "alone" not in p[0]]],
        gradients(found, ours), wanted_gradients, strict=True,
    ):  # fmt: skip
        assert (mine is None) == (their is None), name
        if mine is not None:
            torch.testing.assert_close(mine, their, rtol=1e-10, atol=1e-12)
        relations += name.startswith("p_rel") and bool(mine.abs().max() > 1e-6)
    assert relations == 3


def test_hgt_with_sources_that_no_edge_leaves():
    ours, theirs = hgt_pair()
    few = {KINDS[1][1]: torch.tensor([[4, 4], [0, 2]])}
    x = {kind: rows.detach() for kind, rows in features().items()}
    mine, their = ours(x, few), theirs(x, few)
    torch.testing.assert_close(mine["author"], their["author"], rtol=1e-12, atol=1e-12)


def test_hgt_steps_back_for_hooks_and_is_accelerated():
    ours, theirs = hgt_pair()
    seen = []
    ours.register_message_forward_hook(lambda module, args, out: seen.append(1))
    x = {kind: rows.detach() for kind, rows in features().items()}
    wanted = theirs(x, edges())["author"]
    torch.testing.assert_close(ours(x, edges())["author"], wanted)
    assert seen
    report = accelerate(theirs)
    assert [conv.kind for conv in report.replaced] == ["HGTConv"]
    torch.testing.assert_close(theirs(x, edges())["author"], wanted)
    assert restore(theirs) == [""]
