"""Compressed embedding tables: codes, shared arrays, low rank, and how a table is specified."""

from __future__ import annotations

import copy
import io
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from graphkit.errors import InputError
from graphkit.nn.embedding import (
    MAPPINGS,
    METHODS,
    CodedEmbedding,
    Codes,
    LowRankEmbedding,
    Placement,
    SharedArray,
    SharedEmbedding,
    SharedLinear,
    SlotMap,
    check_spec,
    double_codes,
    double_frequency_codes,
    fold_decoder,
    frequency_codes,
    lsh_codes,
    make_table,
    materialize,
    mimic_linear,
    mimic_table,
    needs_graph,
    random_codes,
    resolve,
    universal_hash,
)

pytestmark = pytest.mark.usefixtures("one_thread")
COUNTS = torch.arange(10, 0, -1)


def seen(users=40, items=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pairs = (torch.rand(users, items, generator=generator) < 0.15).nonzero().t().contiguous()
    return SimpleNamespace(num_users=users, num_items=items, edge_index=pairs)


def table_of(method, interactions, side="user", dim=4, **more):
    size = {} if method == "full" else {"gamma": 2.0}
    spec = {"method": method, "seed": 1, **size, **more}
    rows = interactions.num_users if side == "user" else interactions.num_items
    codes = resolve(spec, interactions, side)
    return make_table(rows, dim, spec, init=nn.init.normal_, codes=codes)


# -- codes --------------------------------------------------------------------------------------


def test_frequency_codes_of_the_worked_case():
    codes = frequency_codes(COUNTS, 4)
    assert codes.rows.tolist() == [2, 3] + [i % 2 for i in range(2, 10)]
    double = double_frequency_codes(COUNTS, 4, torch.Generator().manual_seed(0)).rows
    assert double[:2].tolist() == [[2, 2], [3, 3]]
    assert int(double[2:].max()) <= 1
    odd = frequency_codes(torch.tensor([0, 5, 5, 1]), 3)  # t = 1, the first among equals
    assert odd.rows.tolist() == [0, 2, 0, 1]
    for function in (frequency_codes, double_frequency_codes):
        with pytest.raises(InputError, match="num_rows: 1, wanted an integer of at least 2"):
            function(COUNTS, 1)


def test_hashes_cover_the_table_and_follow_the_seed():
    one, same, other = (
        universal_hash(5000, 50, torch.Generator().manual_seed(s)) for s in (3, 3, 4)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    counts = torch.bincount(one, minlength=50)
    assert int(counts.min()) >= 50
    assert int(counts.max()) <= 200
    both = double_codes(5000, 50, torch.Generator().manual_seed(3)).rows
    assert torch.equal(both[:, 0], one)
    assert float((both[:, 0] == both[:, 1]).float().mean()) < 0.1
    assert random_codes(7, 3).rows.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_lsh_gives_like_features_like_codes():
    features = torch.randn(6, 8).repeat_interleave(5, 0)
    codes = lsh_codes(features, 20, torch.Generator().manual_seed(0))
    assert (codes.rows.view(6, 5) == codes.rows.view(6, 5)[:, :1]).all()
    assert codes.num_rows == int(codes.rows.max()) + 1 <= 32  # 20 has five bits
    dense = lsh_codes(features, 20, torch.Generator().manual_seed(0))
    sparse = lsh_codes(features.to_sparse(), 20, torch.Generator().manual_seed(0))
    assert torch.equal(dense.rows, sparse.rows)


def test_two_hashes_sum_rows_and_gradients():
    codes = Codes(torch.tensor([[0, 1], [2, 2], [1, 0]]), 3)
    table = CodedEmbedding(codes, nn.Embedding(3, 4))
    rows = table.store.weight
    ids = torch.tensor([[0, 1], [1, 2]])
    torch.testing.assert_close(table(ids)[0, 0], rows[0] + rows[1])
    torch.testing.assert_close(table(ids)[0, 1], 2 * rows[2])
    torch.testing.assert_close(table.materialize(), table(torch.arange(3)))
    table(torch.tensor([1])).sum().backward()
    assert rows.grad[2].tolist() == [2.0] * 4
    by_lookup = torch.autograd.grad(table(torch.arange(3)).square().sum(), rows)[0]
    whole = torch.autograd.grad(table.weight.square().sum(), rows)[0]
    torch.testing.assert_close(by_lookup, whole)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "lsh"])
@pytest.mark.parametrize("side", ["user", "item"])
def test_every_method_is_a_drop_in(method, side):
    data = seen()
    table = table_of(method, data, side)
    rows = data.num_users if side == "user" else data.num_items
    ids = torch.tensor([[0, 1, 2], [rows - 1, 0, 1]])
    assert table(ids).shape == (2, 3, 4)
    whole = materialize(table)
    assert whole.shape == (rows, 4)
    torch.testing.assert_close(whole[ids], table(ids))
    assert (table.num_embeddings, table.embedding_dim) == (rows, 4)
    assert needs_graph({"method": method}) == (method != "full")
    if method == "full":
        return
    assert table.full_parameters == rows * 4
    again = table_of(method, data, side)
    assert torch.equal(again.codes, table.codes)
    graph = table_of("graph", data, side)
    if method != "lsh_structure":
        assert table.num_parameters == graph.num_parameters < rows * 4
    assert "parameters=" in repr(table)


def test_lsh_reads_side_features():
    data = seen()
    with pytest.raises(InputError, match="lsh_structure"):
        table_of("lsh", data)
    data.user_features = torch.randn(40, 5)
    assert table_of("lsh", data)(torch.tensor([3])).shape == (1, 4)


def test_sides_and_seeds_hash_apart():
    data = seen(30, 30)
    spec = {"method": "double", "rows": 10, "seed": 0}
    user, item = (resolve(spec, data, side).rows for side in ("user", "item"))
    assert not torch.equal(user, item)
    torch.manual_seed(5)
    first = resolve({"method": "double", "rows": 10}, data, "user").rows
    torch.rand(3)
    assert torch.equal(first, resolve({"method": "double", "rows": 10}, data, "user").rows)
    sizes = {"method": "random", "rows": {"user": 4, "item": 9}}
    assert resolve(sizes, data, "item").num_rows == 9
    assert resolve({"method": "random", "fraction": 0.2}, data, "item").num_rows == 6


def test_saved_tables_carry_their_codes():
    data = seen()
    one, two = table_of("double", data), table_of("double", data, seed=9)
    assert not torch.equal(one.codes, two.codes)
    before = two.weight  # fills what is remembered of the old codes
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    two.load_state_dict(torch.load(buffer, weights_only=True))
    assert not torch.equal(before, two.weight)
    torch.testing.assert_close(one.weight, two.weight)
    torch.testing.assert_close(copy.deepcopy(two).weight, one.weight)
    graph = table_of("graph", data)
    with pytest.raises(InputError, match="codes: saved for"):
        graph.load_state_dict(one.state_dict())
    other = make_table(
        40, 4, {"method": "random", "rows": 3}, init=nn.init.normal_,
        codes=resolve({"method": "random", "rows": 3}, data, "user"),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"codes: row \d+, but the table has rows 0\.\.2"):
        other.load_state_dict(graph.state_dict())
    with pytest.raises(InputError, match="weight: saved with"):
        graph.load_state_dict(other.state_dict())


# -- shared arrays ------------------------------------------------------------------------------


def fold_map(folds, size=4):
    return SlotMap("randomfold", size, 1, torch.ones(6).long(), torch.tensor(folds), False)


def test_random_folds_of_the_worked_cases():
    where = Placement(0, 10, 1)
    slots = fold_map([1, 0, 3]).slots(where, torch.arange(10)).flatten()
    assert slots.tolist() == [1, 2, 3, 0, 0, 1, 2, 3, 3, 0]
    assert torch.bincount(slots).tolist() == [3, 2, 2, 3]
    other = fold_map([1, 3, 0]).slots(where, torch.arange(10)).flatten()
    assert other.tolist() == [1, 2, 3, 0, 3, 0, 1, 2, 0, 1]
    psi = torch.tensor([0.1, 0.2, 0.3, 0.4])
    wanted = [0.2, 0.3, 0.4, 0.1, 0.4, 0.1, 0.2, 0.3, 0.1, 0.2]
    torch.testing.assert_close(psi[other], torch.tensor(wanted))


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_maps_against_their_formulas(mapping):
    rows, columns, size, block, offset = 50, 12, 97, 4, 30
    array = SharedArray(offset + rows * columns, 97.5 / (offset + 600), mapping, block, seed=5)
    slots = array.slot_map
    where = Placement(offset, rows, columns)
    got = slots.slots(where, torch.arange(rows))
    c0, c1, c2 = (int(c) for c in array.constants[:3])
    prime = 2038074743
    for r in range(rows):
        for c in range(columns):
            v = offset + r * columns + c
            if mapping == "hashednet":
                wanted = (c0 * v + c1 * v * v + c2) % prime % size
            elif mapping == "robe":
                wanted = (c0 * r + c1 * (c // 4) + c2) % prime % (size - 3) + c % 4
            elif mapping == "roast":
                inner = c0 * (r + offset) + c1 * (c // 4 + offset + rows) + c2
                wanted = inner % prime % (size - 4) + c % 4
            else:
                q = v // size
                wanted = ((c0 * q + c1 * q * q + c2) % prime % size + v % size) % size
            assert int(got[r, c]) == wanted
    signs = slots.signs(where, torch.arange(rows))
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 0.15


def test_random_folds_share_evenly():
    array = SharedArray(1000 * 8, 0.13, seed=3)
    SharedEmbedding(1000, 8, array)
    counts = array.load_of_slots()[0]
    assert len(counts) == 1040
    assert int(counts.max() - counts.min()) == 1
    assert int(counts.sum()) == 8000


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_shared_rows_and_their_gradients(mapping):
    array = SharedArray(600, 0.2, mapping, block=3).double()
    table = SharedEmbedding(100, 6, array, std=0.3)
    assert table.num_parameters == 120
    ids = torch.tensor([[3, 99], [3, 0]])
    whole = table.weight
    assert torch.equal(table(ids), whole[ids])
    torch.autograd.gradcheck(lambda w: _read(table, w, ids), array.weight)
    with pytest.raises(InputError, match=r"ids: 100, wanted 0\.\.99"):
        table(torch.tensor([100]))


def _read(table, weight, ids):
    from graphkit.nn.embedding.shared import _Rows

    virtual = table.virtual
    return _Rows.apply(weight, ids.flatten(), table.array.slot_map, virtual.place, virtual.scale)


def test_without_compression_training_is_that_of_the_dense_table():
    dense = nn.Embedding(20, 5)
    array = SharedArray(100, 1.0, init_scale=0.05, seed=2)
    shared = SharedEmbedding(20, 5, array, std=0.05)
    slots = array.slot_map.slots(shared.virtual.place, torch.arange(20))
    assert slots.flatten().unique().numel() == 100
    signs = array.slot_map.signs(shared.virtual.place, torch.arange(20))
    with torch.no_grad():
        array.weight[slots.flatten()] = (dense.weight * signs).flatten()
    torch.testing.assert_close(shared.weight, dense.weight)
    target = torch.randn(7, 5)
    ids = torch.tensor([0, 3, 3, 19, 7, 8, 0])
    losses = []
    for table in (dense, shared):
        optimizer = torch.optim.SGD(table.parameters(), lr=0.3)
        curve = []
        for _ in range(10):
            optimizer.zero_grad()
            loss = (table(ids) - target).square().mean()
            loss.backward()
            optimizer.step()
            curve.append(float(loss.detach()))
        losses.append(curve)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert losses[0][-1] < losses[0][0]


def test_gradient_scales():
    array = SharedArray(4, 1.0)
    array._members = [(Placement(0, 3, 1), 2.0), (Placement(3, 1, 1), 0.5)]
    array.load_of_slots = lambda: (  # three weights of scale 2 and one of .5 on each slot
        torch.full((4,), 4.0).double(), torch.full((4,), 6.5).double(),
        torch.full((4,), 12.25).double(),
    )  # fmt: skip
    wanted = {"v1": 10.55986, "v2": 6.5, "v3": 6.5 / 4.001, "v4": 3.5, "v5": 12.25}
    for variant, gamma in wanted.items():
        assert float(array.grad_divisor(variant)[0]) == pytest.approx(gamma + 1e-6, abs=1e-5)
    assert array.grad_divisor("none").tolist() == [1.0] * 4
    with pytest.raises(InputError, match="grad_scale: 'v6'"):
        array.grad_divisor("v6")


def test_v1_moves_every_weight_by_the_mean_gradient():
    array = SharedArray(3, 0.34, init_scale=0.05, signed=False)
    table = SharedEmbedding(3, 1, array, std=0.025)  # lambda .5
    assert len(array.weight) == 1
    before = table.weight.detach().clone()
    array.weight.register_hook(lambda grad: grad / array.grad_divisor("v1"))
    optimizer = torch.optim.SGD(table.parameters(), lr=1.0)
    (table.weight.flatten() * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert float(array.weight.grad) == pytest.approx(4.0013, abs=1e-3)
    optimizer.step()
    moved = (before - table.weight).flatten().tolist()
    assert moved == pytest.approx([2.0007] * 3, abs=1e-3)


def test_initial_spread_of_shared_tables():
    kept = {"store": "randomfold", "ratio": 0.5}
    init = lambda w: nn.init.normal_(w, std=0.1)  # noqa: E731
    plain = make_table(2000, 8, kept, init=init)
    exact = make_table(2000, 8, {**kept, "exact_std": True}, init=init)
    assert float(exact.weight.std()) == pytest.approx(0.1, rel=0.05)
    assert float(plain.weight.std()) == pytest.approx(0.1 / 3**0.5, rel=0.05)
    with pytest.raises(InputError, match="all values are equal"):
        make_table(20, 8, kept, init=nn.init.zeros_)


def test_one_array_for_several_weights_is_saved_once():
    class Model(nn.Module):
        def __init__(self, seed):
            super().__init__()
            array = SharedArray(10 * 4 + 4 * 3, 0.5, seed=seed)
            self.table = SharedEmbedding(10, 4, array, std=0.1, own=False)
            self.layer = SharedLinear(4, 3, torch.zeros(3), array=array, std=0.5)
            self.shared_array = array

        def forward(self, ids):
            return self.layer(self.table(ids))

    one, two = Model(0), Model(1)
    names = [name for name, _ in one.named_parameters()]
    assert names == ["layer.bias", "shared_array.weight"]
    assert sum(key.endswith("array.weight") for key in one.state_dict()) == 1
    two.load_state_dict(one.state_dict())
    ids = torch.arange(10)
    torch.testing.assert_close(two(ids), one(ids))
    clone = copy.deepcopy(one)
    with torch.no_grad():
        clone.shared_array.weight.zero_()
    assert float(clone.table.weight.abs().max()) == 0.0 < float(one.table.weight.abs().max())
    with pytest.raises(InputError, match="for 52 weights, 52 are taken"):
        one.shared_array.join(1, 1, 1.0)
    with pytest.raises(InputError, match="saved for 10 x 4"):
        SharedEmbedding(5, 4, SharedArray(20, 1.0)).virtual.load_state_dict(
            {k.removeprefix("table.virtual."): v for k, v in one.state_dict().items()
             if k.startswith("table.virtual.")},
            strict=False,
        )  # fmt: skip


def test_codes_may_choose_rows_of_a_shared_array():
    data = seen()
    table = table_of("graph", data, store="randomfold", ratio=0.5)
    rows = table.store.num_embeddings
    assert table.num_parameters == rows * 4 // 2
    torch.testing.assert_close(table.weight, table(torch.arange(40)))
    table.weight.sum().backward()
    assert table.store.array.weight.grad is not None


# -- low rank -----------------------------------------------------------------------------------


def test_full_rank_reproduces_and_rank_one_data_needs_one():
    weight, counts = torch.randn(30, 6), torch.rand(30)
    torch.testing.assert_close(mimic_table(weight, counts, 6).weight, weight, atol=1e-5, rtol=0)
    line = torch.randn(30, 1) * torch.randn(1, 6) + torch.randn(6)
    narrow = mimic_table(line, counts, 1)
    torch.testing.assert_close(narrow.weight, line, atol=1e-5, rtol=0)
    assert narrow.num_parameters == 30 + 6 + 6
    weighted = torch.tensor([1.0] + [0.0] * 29)  # all the data is one id: it comes out exactly
    torch.testing.assert_close(mimic_table(weight, weighted, 1).weight[0], weight[0])


def test_mimicked_table_is_the_best_of_its_rank():
    weight, counts = torch.randn(200, 8) @ torch.randn(8, 8), torch.rand(200)
    error = (mimic_table(weight, counts, 3).weight - weight).square().sum(1) @ counts
    share = counts / counts.sum()
    centred = (weight - share @ weight) * share.sqrt()[:, None]
    rest = torch.linalg.svdvals(centred)[3:].square().sum() * counts.sum()
    assert float(error) == pytest.approx(float(rest), rel=1e-3)


def test_linear_layers_split_and_sum_over_batches():
    layer, x = nn.Linear(7, 5), torch.randn(60, 7) + 3
    split = mimic_linear(layer, x, 5)
    torch.testing.assert_close(split(x), layer(x), atol=1e-5, rtol=0)
    whole, parts = mimic_linear(layer, x, 2), mimic_linear(layer, x.split(11), 2)
    torch.testing.assert_close(whole(x), parts(x), atol=1e-5, rtol=0)
    mean = (whole(x) - layer(x)).mean(0)
    torch.testing.assert_close(mean, torch.zeros(5), atol=1e-5, rtol=0)
    assert isinstance(mimic_linear(layer, x, 2, relu=True)[1], nn.ReLU)
    no_bias = nn.Linear(7, 5, bias=False)
    torch.testing.assert_close(mimic_linear(no_bias, x, 5)(x), no_bias(x), atol=1e-5, rtol=0)


def test_the_decoder_folds_into_the_next_layer():
    table, layer = LowRankEmbedding(9, 6, 2), nn.Linear(10, 3)
    rest = torch.randn(9, 4)
    ids = torch.arange(9)
    narrow, merged = fold_decoder(table, layer, start=1)
    wide = torch.cat([rest[:, :1], table(ids), rest[:, 1:]], 1)
    thin = torch.cat([rest[:, :1], narrow(ids), rest[:, 1:]], 1)
    torch.testing.assert_close(merged(thin), layer(wide), atol=1e-6, rtol=1e-5)
    with pytest.raises(InputError, match=r"columns 5\.\.10"):
        fold_decoder(table, layer, start=5)


def test_low_rank_from_a_spec_and_back_from_a_state_dict():
    spec = {"store": "low_rank", "rank": 2}
    one, two = (make_table(9, 6, spec, init=nn.init.normal_) for _ in range(2))
    two.load_state_dict(one.state_dict())
    torch.testing.assert_close(one.weight, two.weight)
    with pytest.raises(InputError, match="rows or rank differ"):
        two.load_state_dict(
            make_table(9, 6, {**spec, "rank": 3}, init=nn.init.normal_).state_dict()
        )


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"methud": "graph"}, r"table\.methud: unknown key; did you mean 'method'"),
        ({"method": "grap", "gamma": 1}, "'grap' is not one of.*did you mean 'graph'"),
        ({"method": "graph"}, "wants one of gamma, rows and fraction, got none"),
        ({"method": "graph", "gamma": 1, "fraction": 0.1}, "got gamma and fraction"),
        ({"method": "graph", "gamma": 0}, r"table\.gamma: 0, wanted a positive number"),
        ({"method": "graph", "gamma": -3}, "wanted a positive number"),
        ({"method": "random", "fraction": 1.5}, r"wanted a number in \(0, 1\]"),
        ({"gamma": 3}, "has no effect with method 'full'"),
        ({"store": "robe"}, r"table\.ratio: missing"),
        ({"store": "low_rank"}, r"table\.rank: missing"),
        ({"store": "dense", "ratio": 0.1}, r"table\.ratio: has no effect"),
        ({"store": "rob", "ratio": 0.1}, "'rob' is not one of"),
        ("graph", "wanted a mapping"),
    ],
)
def test_specs_that_are_refused(spec, message):
    with pytest.raises(InputError, match=message):
        check_spec(spec)


@pytest.mark.parametrize("ratio", [0, -0.1, 1.1, True, "a"])
def test_ratio_lies_in_zero_to_one(ratio):
    with pytest.raises(InputError, match=r"ratio: .*\(0, 1\]"):
        make_table(100, 4, {"store": "randomfold", "ratio": ratio}, init=nn.init.normal_)


def test_other_refusals():
    normal = nn.init.normal_
    with pytest.raises(InputError, match="block: 64, but the array has 40 slots"):
        make_table(100, 4, {"store": "robe", "ratio": 0.1, "block": 64}, init=normal)
    with pytest.raises(InputError, match="roast wants at least 41"):
        make_table(100, 4, {"store": "roast", "ratio": 0.1, "block": 40}, init=normal)
    with pytest.raises(InputError, match="0 slots"):
        make_table(2, 2, {"store": "hashednet", "ratio": 0.1}, init=normal)
    with pytest.raises(InputError, match=r"rank: 5, wanted 1\.\.4"):
        make_table(100, 4, {"store": "low_rank", "rank": 5}, init=normal)
    with pytest.raises(InputError, match=r"rank: 6, wanted 1\.\.5"):
        mimic_linear(nn.Linear(8, 5), torch.randn(9, 8), 6)
    with pytest.raises(InputError, match=r"rank: 0, wanted"):
        mimic_table(torch.randn(5, 3), torch.ones(5), 0)
    with pytest.raises(InputError, match="counts"):
        mimic_table(torch.randn(5, 3), torch.ones(4), 1)
    with pytest.raises(InputError, match="inputs: none"):
        mimic_linear(nn.Linear(8, 5), [], 2)
    with pytest.raises(InputError, match="codes: none"):
        make_table(5, 3, {"method": "random", "rows": 2}, init=normal)
    with pytest.raises(InputError, match="codes: of 5 ids, the table is for 6"):
        make_table(6, 3, {"method": "random", "rows": 2}, init=normal, codes=random_codes(5, 2))
    with pytest.raises(InputError, match="store: 4 rows, but the codes name 2"):
        CodedEmbedding(random_codes(5, 2), nn.Embedding(4, 3))
    with pytest.raises(InputError, match=r"row 2, but the table has rows 0\.\.1"):
        Codes(torch.tensor([0, 2]), 2)
    for size in (0, True):
        with pytest.raises(InputError, match="num_rows"):
            make_table(size, 3, init=normal)
    with pytest.raises(InputError, match=r"table\.rows: 0"):
        resolve({"method": "random", "rows": 0}, seen(), "user")
    with pytest.raises(InputError, match="at least 2"):
        resolve({"method": "frequency", "rows": 1}, seen(), "user")
    with pytest.raises(InputError, match="side: 'users'"):
        resolve({"method": "random", "rows": 2}, seen(), "users")
