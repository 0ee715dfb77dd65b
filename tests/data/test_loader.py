"""The order depends on seed and epoch only, and a loader goes on exactly where another stopped."""

import json

import pytest
import torch

from graphkit import data
from graphkit.data import GraphLoader
from graphkit.errors import InputError


@pytest.fixture(scope="module")
def demo():
    return data.load("demo")


def seen(batch) -> list[int]:
    # The targets of a regression set identify graphs well enough: compare whole tensors instead.
    return batch.x.flatten().tolist()


def test_an_epoch_visits_each_graph_once(demo):
    loader = demo.loader("train", batch_size=32, shuffle=True, seed=5)
    batches = list(loader)
    assert len(batches) == len(loader) == 14
    assert sum(batch.num_graphs for batch in batches) == 420
    everything = torch.cat([batch.y for batch in batches]).sum()
    assert everything == demo.graphs.y[demo.splits["train"]].sum()


def test_order_depends_on_seed_and_epoch_only(demo):
    first = demo.loader("train", 64, shuffle=True, seed=1)
    second = demo.loader("train", 64, shuffle=True, seed=1)
    torch.manual_seed(123)
    epochs = [[seen(batch) for batch in first] for _ in range(2)]
    torch.manual_seed(7)
    second.set_epoch(1)
    assert [seen(batch) for batch in second] == epochs[1]
    assert epochs[0] != epochs[1]
    other = demo.loader("train", 64, shuffle=True, seed=2)
    assert [seen(batch) for batch in other] != epochs[0]


@pytest.mark.parametrize("stop", [0, 1, 5, 13, 14])
def test_a_restored_loader_continues_with_the_next_batch(demo, stop):
    whole = demo.loader("train", 32, shuffle=True, seed=9)
    two_epochs = [seen(batch) for _ in range(2) for batch in whole]
    loader = demo.loader("train", 32, shuffle=True, seed=9)
    iterator = iter(loader)
    head = [seen(next(iterator)) for _ in range(stop)]
    state = json.loads(json.dumps(loader.state_dict()))
    restored = demo.loader("train", 32, shuffle=True, seed=0)
    restored.load_state_dict(state)
    restored.set_epoch(state["epoch"])
    tail = [seen(batch) for _ in range(2) for batch in restored]
    assert head + tail == two_epochs


def test_a_broken_off_epoch_starts_anew_without_a_state(demo):
    loader = demo.loader("train", 32, shuffle=True)
    first = next(iter(loader))
    assert seen(next(iter(loader))) == seen(first)


def test_ranks_share_an_epoch_and_together_make_the_same_global_batches(demo):
    alone = [
        {repr(b.x.tolist()) for b in batch.to_data_list()}
        for batch in demo.loader("train", 20, shuffle=True, seed=3)
    ]
    ranks = [
        demo.loader("train", 10, shuffle=True, seed=3, rank=rank, world_size=2) for rank in range(2)
    ]
    assert len(ranks[0]) == len(ranks[1]) == len(alone)
    for both, wanted in zip(zip(*ranks, strict=True), alone, strict=True):
        together = {repr(b.x.tolist()) for batch in both for b in batch.to_data_list()}
        assert together == wanted


def test_evaluation_over_ranks_counts_each_graph_once(demo):
    totals = [
        sum(b.num_graphs for b in demo.loader("test", 7, rank=rank, world_size=4))
        for rank in range(4)
    ]
    assert sum(totals) == len(demo.splits["test"])


def test_single_graph_batches_are_kept(demo):
    loader = GraphLoader(demo.graphs, torch.arange(5), batch_size=2)
    assert [batch.num_graphs for batch in loader] == [2, 2, 1]


def test_node_level_loader_gives_the_graph_with_masks():
    dataset = data.load("demo-node")
    (batch,) = list(dataset.loader("train"))
    for part, ids in dataset.splits.items():
        assert torch.equal(batch[f"{part}_mask"].nonzero().flatten(), ids)


def test_a_state_of_another_loader_is_refused(demo):
    state = demo.loader("train", 32).state_dict()
    with pytest.raises(InputError, match="batch_size: .* 32, this loader has 16"):
        demo.loader("train", 16).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"ids": torch.tensor([600])}, "ids: must lie in 0..599"),
        ({"ids": torch.tensor([], dtype=torch.long)}, "ids: expected a non-empty"),
    ],
)
def test_wrong_arguments(demo, arguments, says):
    with pytest.raises(InputError, match=says):
        GraphLoader(demo.graphs, **{"ids": torch.arange(4), **arguments})


def test_unknown_split_names_the_nearest(demo):
    with pytest.raises(InputError, match="did you mean 'valid'"):
        demo.loader("vald")
