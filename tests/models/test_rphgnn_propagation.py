"""RpHGNN's precomputation: exact cases, a dense reference, invariants, files and refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hetero_cases import SIZES, academic, reference, toy, with_labels
from safetensors import safe_open
from torch_geometric.data import HeteroData

from graphkit.errors import CorruptFileError, InputError
from graphkit.models import MetapathMeans, RpHGNNPropagation
from graphkit.models.rphgnn import collect as collecting
from graphkit.models.rphgnn import line_features
from graphkit.models.rphgnn.labels import own_share
from graphkit.models.rphgnn.projection import (
    Features,
    add_normalized,
    normalize_rows,
    projection_matrix,
)
from graphkit.models.rphgnn.relations import read_hetero
from graphkit.ops import CSR, aggregate
from graphkit.ops.linear import product

pytestmark = pytest.mark.usefixtures("one_thread")


def groups_of(data: HeteroData, target: str = "paper", **options: Any) -> dict[str, torch.Tensor]:
    propagation = RpHGNNPropagation(**options).fit(data, target)
    return dict(zip(propagation.names_, propagation.groups_, strict=True))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_toy_case() -> None:
    groups = groups_of(toy(), "author", iterations=1)
    assert groups["author|writes|paper|odd"][:, 0].tolist() == [[1.5], [2.5]]
    assert groups["author|writes|paper|even"][:, 0].tolist() == [[0.75, 0.25], [0.25, 0.75]]


def test_labels_of_the_toy_case_leave_out_the_own() -> None:
    relation = read_hetero(toy(), "author").relations[0]
    assert own_share(relation.into("author"), relation.into("paper")).tolist() == [0.75, 0.75]
    groups = RpHGNNPropagation(iterations=1).fit_transform(
        toy(), "author", labels=torch.tensor([0, 1]), train=torch.tensor([0]), num_classes=2
    )
    assert len(groups) == 3
    assert torch.allclose(groups[2][:, 0].float(), torch.tensor([[0.5, 0.5], [1.0, 0.0]]))


@pytest.mark.parametrize("even_odd", ["all", "odd", "even"])
@pytest.mark.parametrize("use_input", [False, True])
def test_equals_a_dense_reference(even_odd: str, use_input: bool) -> None:
    options = {"iterations": 3, "embedding_size": 7, "seed": 5, "even_odd": even_odd}
    for target in ("paper", "author"):
        data = academic()
        wanted = reference(data, target, use_input=use_input, **options)
        found = groups_of(data, target, use_input=use_input, **options)
        assert found.keys() == wanted.keys()
        for name, group in found.items():
            assert group.shape == wanted[name].shape
            assert torch.allclose(group.double(), wanted[name], atol=2e-3, rtol=2e-3), name


@pytest.mark.parametrize("gather", [1, 24, 10_000])
def test_where_it_projects_changes_nothing(gather: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = academic()
    data["paper"].x[torch.rand(data["paper"].x.shape) < 0.9] = 0  # sparse, and so projected early
    options = {"iterations": 3, "embedding_size": 7, "seed": 5}
    wanted = reference(data, "author", **options)
    monkeypatch.setattr(collecting, "_GATHER", gather)
    monkeypatch.setattr(collecting, "_BLOCK", 64)  # and blocks of a few rows
    for name, group in groups_of(data, "author", **options).items():
        assert torch.allclose(group.double(), wanted[name], atol=2e-3, rtol=2e-3), name


def test_projection_commutes_with_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    csr = CSR.from_edge_index(torch.randint(40, (2, 150), generator=generator), num_nodes=40)
    x, r = torch.randn(40, 30, generator=generator), projection_matrix(30, 20, seed=1)
    one = aggregate(csr, product(x, r), reduce="mean")
    other = product(aggregate(csr, x, reduce="mean"), r)
    assert torch.allclose(one, other, atol=1e-4)


def test_entries_of_the_projection() -> None:
    r = projection_matrix(400, 300, seed=3)
    share = (r == 0).double().mean().item()
    assert abs(share - 2 / 3) < 5 * math.sqrt(2 / 9 / r.numel())
    assert torch.allclose(r[r != 0].abs(), torch.tensor(math.sqrt(3.0)))
    assert abs((r > 0).double().mean().item() - 1 / 6) < 5 * math.sqrt(5 / 36 / r.numel())
    assert not torch.equal(r, projection_matrix(400, 300, seed=4))
    gaussian = projection_matrix(400, 300, seed=3, kind="gaussian")
    assert abs(gaussian.std().item() - math.sqrt(2 / 700)) < 1e-3


def test_summed_terms_have_length_one_or_zero() -> None:
    rows = torch.randn(6, 4)
    rows[2] = 0
    total = torch.zeros(6, 4)
    add_normalized(total, rows)
    assert torch.allclose(total.norm(dim=1), torch.tensor([1.0, 1, 0, 1, 1, 1]))
    assert torch.equal(normalize_rows(torch.zeros(1, 3)), torch.zeros(1, 3))


def test_lengths_stay_below_the_number_of_keys() -> None:
    groups = groups_of(academic(), "paper", iterations=4, embedding_size=6)
    for name, group in groups.items():
        later = group[:, 1:].float().norm(dim=2)  # means of sums of at most eight unit rows
        assert later.max() <= 8.01, name


def test_threads_and_seeds() -> None:
    options = {"iterations": 3, "embedding_size": 70}
    data = academic(widths={"author": 50, "paper": 1200, "term": 90})
    found = {}
    for threads in (1, 2, 8):
        torch.set_num_threads(threads)
        found[threads] = groups_of(data, seed=1, **options)
    torch.set_num_threads(1)
    assert same(found[1], found[2])
    assert same(found[1], found[8])
    assert not same(found[1], groups_of(data, seed=2, **options))


def test_the_last_squash_is_not_missed() -> None:
    short = groups_of(academic(), iterations=2, seed=1)
    long = groups_of(academic(), iterations=3, seed=1)
    for name, group in short.items():
        assert torch.equal(group, long[name][:, :2])


def test_only_what_the_target_needs_is_computed() -> None:
    graph = read_hetero(academic(), "venue")
    plan = collecting.Plan("venue", 3, ("odd",), "projection", 0)
    assert collecting.needed_types(graph, plan) == [
        {"paper", "author", "venue", "term"}, {"paper", "author", "venue", "term"}, {"paper"},
    ]  # fmt: skip


def test_isolated_nodes_are_zero() -> None:
    data = academic()  # the last node of each type has no edge
    for group in groups_of(data, iterations=3).values():
        assert group.isfinite().all()
        assert not group[-1].any()


def test_a_relation_listed_twice_counts_once() -> None:
    data, both = academic(), academic()
    for source, relation, destination in list(data.edge_types):
        flipped = both[source, relation, destination].edge_index.flip(0)
        shuffled = flipped[:, torch.randperm(flipped.size(1))]
        both[destination, f"rev_{relation}", source].edge_index = shuffled
    assert same(groups_of(data, iterations=2), groups_of(both, iterations=2))
    kept = groups_of(both, iterations=2, keep_inverse=True)
    assert len(kept) == 2 * len(groups_of(data, iterations=2))


def test_numbering_of_nodes_does_not_matter() -> None:
    data = academic(widths={"author": 5, "paper": 12, "term": 3, "venue": 4})
    order = {kind: torch.randperm(size) for kind, size in SIZES.items()}
    other = HeteroData()
    for kind in SIZES:
        other[kind].x = data[kind].x[order[kind]]
    place = {kind: order[kind].argsort() for kind in SIZES}
    for edge_type in data.edge_types:
        ends = data[edge_type].edge_index
        moved = torch.stack([place[edge_type[0]][ends[0]], place[edge_type[2]][ends[1]]])
        other[edge_type].edge_index = moved[:, torch.randperm(moved.size(1))]
    one, two = groups_of(data, iterations=3), groups_of(other, iterations=3)
    for name in one:
        assert torch.allclose(one[name][order["paper"]].float(), two[name].float(), atol=2e-3)


def test_shapes_are_known_beforehand() -> None:
    data = academic()
    for options in (
        {"use_input": True}, {"even_odd": "odd"}, {"project_input": 8}, {"random_input": True},
        {"project_target": 6},
    ):  # fmt: skip
        propagation = RpHGNNPropagation(iterations=2, embedding_size=9, **options)
        shapes = propagation.shapes(data, "paper", 3)
        labels = {"labels": torch.zeros(31, dtype=torch.int64), "train": torch.arange(4)}
        groups = propagation.fit_transform(data, "paper", num_classes=3, **labels)
        assert [tuple(group.shape[1:]) for group in groups] == list(shapes.values())
        assert all(group.dtype == torch.float16 for group in groups)
    assert shapes["input"] == (1, 12)
    assert shapes["paper|cites|paper|odd"] == (2, 6)
    assert [name for name in shapes if name.endswith("labels")] == [
        "author|writes|paper|even|labels", "paper|cites|paper|odd|labels",
        "paper|cites|paper|even|labels", "paper|has|term|even|labels", "paper|in|venue|even|labels",
    ]  # fmt: skip


def test_no_label_reaches_its_own_node() -> None:
    data = with_labels(academic())
    loops = torch.tensor([[0, 1, 2, 2], [0, 1, 2, 7]])  # and edges from a node to itself
    data["paper", "cites", "paper"].edge_index = torch.cat(
        [data["paper", "cites", "paper"].edge_index, loops], 1
    )
    y, train = data["paper"].y, torch.arange(31)
    given = {"train": train, "num_classes": 3}
    propagation = RpHGNNPropagation(iterations=1)
    before = propagation.fit_transform(data, "paper", labels=y, **given)
    for node in (0, 2, 7, 30):
        changed = y.clone()
        changed[node] = (y[node] + 1) % 3
        after = propagation.fit_transform(data, "paper", labels=changed, **given)
        for one, two in zip(before[-5:], after[-5:], strict=True):
            assert torch.allclose(one[node].float(), two[node].float(), atol=1e-3)
            assert torch.allclose(one.float().sum(2), torch.ones(31, 1), atol=5e-3)


def test_mean_squash_and_gaussian() -> None:
    same_width = academic(widths=dict.fromkeys(SIZES, 6))
    groups = groups_of(same_width, iterations=2, squash="mean")
    assert all(group.isfinite().all() for group in groups.values())
    assert not same(groups, groups_of(same_width, iterations=2, squash="gaussian"))
    with pytest.raises(InputError, match="of one width"):
        groups_of(academic(), iterations=2, squash="mean")


def test_sparse_features_give_the_same_product() -> None:
    x = torch.zeros(40, 30)
    x[torch.arange(40), torch.arange(40) % 30] = 1.0
    features, r = Features(x), projection_matrix(30, 11, seed=0)
    assert features.entries == 40
    assert torch.allclose(features.times(r), x @ r)


# -- files ----------------------------------------------------------------------------------------


def test_groups_beyond_the_budget_are_in_a_file(tmp_path: Any) -> None:
    data, options = academic(), {"iterations": 3, "seed": 2}
    plain = groups_of(data, **options)
    assert same(plain, groups_of(data, budget_bytes=0, **options))
    path = tmp_path / "groups.safetensors"
    assert same(plain, groups_of(data, path=path, **options))
    with safe_open(str(path), framework="pt") as stream:
        assert all(torch.equal(stream.get_tensor(name), plain[name]) for name in plain)
    written = path.stat().st_mtime_ns
    again = RpHGNNPropagation(path=path, **options).fit_transform(data, "paper")
    assert all(torch.equal(a, b) for a, b in zip(again, plain.values(), strict=True))
    assert path.stat().st_mtime_ns == written


def test_changes_to_groups_do_not_reach_their_file(tmp_path: Any) -> None:
    options = {"iterations": 2, "embedding_size": 8, "path": tmp_path / "groups.safetensors"}
    first = RpHGNNPropagation(**options).fit_transform(academic(), "paper")
    wanted = [group.clone() for group in first]
    for group in first:
        group.zero_()
    again = RpHGNNPropagation(**options).fit_transform(academic(), "paper")
    assert all(torch.equal(a, b) for a, b in zip(wanted, again, strict=True))


def test_graphs_that_cannot_be_read_are_explained() -> None:
    data = academic()
    data["paper"].x = data["paper"].x.numpy()
    with pytest.raises(InputError, match="x: ndarray for node type 'paper'"):
        groups_of(data)
    data = academic()
    del data["paper", "cites", "paper"].edge_index
    with pytest.raises(InputError, match="edge_index: none for .*cites"):
        groups_of(data)
    with pytest.raises(InputError, match=r"train: mask \[3\], wanted \[31\]"):
        RpHGNNPropagation(iterations=1).fit_transform(
            academic(), "paper", labels=torch.zeros(31, dtype=torch.int64),
            train=torch.ones(3, dtype=torch.bool),
        )  # fmt: skip


def test_a_file_of_something_else_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "groups.safetensors"
    groups_of(academic(), path=path, iterations=2)
    with pytest.raises(InputError, match="another graph"):
        groups_of(academic(seed=1), path=path, iterations=2)
    for changed in ({"iterations": 3}, {"iterations": 2, "seed": 1}):
        with pytest.raises(InputError, match="another options"):
            groups_of(academic(), path=path, **changed)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CorruptFileError, match="not a file of propagated groups"):
        groups_of(academic(), path=path, iterations=2)
    path.write_bytes(b"\xff" * 64)
    with pytest.raises(CorruptFileError):
        groups_of(academic(), path=path, iterations=2)


# -- metapaths ------------------------------------------------------------------------------------


def test_means_along_metapaths() -> None:
    data = academic()
    propagation = MetapathMeans(hops=3).fit(data, "author")
    found = dict(zip(propagation.names_, propagation.groups_, strict=True))
    assert list(found) == list(propagation.shapes(data, "author"))
    from hetero_cases import means

    writes, cites = means(data)["author|writes|paper"], means(data)["paper|cites|paper"]
    wanted = writes[3] @ cites[2] @ cites[2] @ data["paper"].x.double()
    name = "author|writes|paper < paper|cites|paper < paper|cites|paper"
    assert torch.allclose(found[name][:, 0].double(), wanted, atol=2e-3)
    assert torch.allclose(found["self"][:, 0].float(), data["author"].x, atol=2e-3)
    with pytest.raises(InputError, match="hop: no such argument.*hops"):
        propagation.set_params(hop=2)
    with pytest.raises(InputError, match="paths"):
        MetapathMeans(hops=8).shapes(data, "author")


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations: 0"),
        ({"even_odd": "both"}, "even_odd: 'both'"),
        ({"squash": "sum"}, "squash: 'sum'"),
        ({"embedding_size": 0}, "embedding_size"),
        ({"budget_bytes": -1}, "budget_bytes"),
        ({"project_input": 0}, "project_input"),
        ({"project_input": 4, "project_target": 4}, "give one of them"),
        ({"seed": 1.5}, "seed"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RpHGNNPropagation(**options)
    propagation = RpHGNNPropagation()
    with pytest.raises(InputError):
        propagation.set_params(**options)
    assert propagation.get_params() == RpHGNNPropagation().get_params()


def test_graphs_that_do_not_fit() -> None:
    def refused(message: str, data: HeteroData, target: str = "paper") -> None:
        with pytest.raises(InputError, match=message):
            RpHGNNPropagation(iterations=1).fit(data, target)

    refused("no node type 'papers'.*'paper'", academic(), "papers")
    lonely = academic()
    lonely["city"].x = torch.ones(3, 2)
    refused("nothing reaches it", lonely, "city")
    for value in (float("nan"), float("inf"), 1e6):
        data = academic()
        data["author"].x[3, 1] = value
        refused("'author' holds values", data)
    for wrong in (torch.tensor([[0], [31]]), torch.tensor([[-1], [0]])):
        data = academic()
        data["author", "writes", "paper"].edge_index = wrong
        refused("edge_index: .*'writes'.* names nodes", data)
    data = academic()
    data["author", "writes", "paper"].edge_index = torch.zeros(2, 3)
    refused("wanted int64", data)
    data = academic()
    del data["venue"].num_nodes
    refused("num_nodes: not given", data)


def test_relations_that_cannot_be_told_apart_are_refused() -> None:
    data, ends = HeteroData(), torch.tensor([[0, 1], [1, 0]])
    for kind in ("a", "a|b", "c"):
        data[kind].num_nodes = 2
    data["a", "b|to", "c"].edge_index = ends
    data["a|b", "to", "c"].edge_index = ends
    with pytest.raises(InputError, match="edge_types: .*tell them apart"):
        RpHGNNPropagation(iterations=1, embedding_size=2).fit(data, "c")


def test_labels_that_do_not_fit() -> None:
    def refused(message: str, **labels: Any) -> None:
        with pytest.raises(InputError, match=message):
            RpHGNNPropagation(iterations=1).fit(academic(), "paper", **labels)

    y, train = torch.zeros(31, dtype=torch.int64), torch.arange(5)
    refused("train: not given", labels=y)
    refused("one class per node", labels=torch.zeros(31, 4), train=train)
    refused("for 31 nodes", labels=y[:4], train=train)
    refused("wanted 0 to 1", labels=y + 2, train=train, num_classes=2)
    refused("train: positions", labels=y, train=torch.tensor([31]))
    refused("labels: list", labels=y.tolist(), train=train)
    refused("train: list", labels=y, train=[0])
    refused("train: torch.float32", labels=y, train=torch.tensor([0.0]))


def test_vectors_of_a_graph_without_edges_are_zero() -> None:
    pytest.importorskip("gensim")
    data = HeteroData()
    data["a"].num_nodes, data["b"].num_nodes = 2, 3
    data["a", "to", "b"].edge_index = torch.empty(2, 0, dtype=torch.int64)
    assert torch.equal(line_features(data, "a", 4)["b"], torch.zeros(3, 4))
