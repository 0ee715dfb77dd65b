"""Saved recommenders, and indexes made of them."""

import sys
from types import SimpleNamespace

import pytest
import torch

from graphkit import serve
from graphkit.data import Interactions
from graphkit.errors import CheckpointError, InputError
from graphkit.models import create_model
from graphkit.storage import atomic_write_bytes

pytestmark = pytest.mark.usefixtures("one_thread")


def model_of(name, **options):
    pairs = torch.randint(0, 30, (2, 150), generator=torch.Generator().manual_seed(0))
    model = create_model(name, num_users=30, num_items=30, **options)
    model.prepare(Interactions(pairs, 30, 30, dedupe=True))
    return model


@pytest.mark.parametrize("name", ["mf", "light_gcn", "neumf", "most_popular"])
def test_a_saved_model_recommends_the_same(name, tmp_path):
    model = model_of(name)
    again = serve.load_recommender(serve.save_recommender(model, tmp_path / "model.safetensors"))
    assert type(again) is type(model)
    assert again.config == model.config
    assert torch.equal(again.prepared().edge_index, model.prepared().edge_index)
    for mine, other in zip(model.recommend([5, 0]), again.recommend([5, 0]), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("store", [{}, {"store": "randomfold", "ratio": 0.5}])
def test_hashed_tables_come_back_whatever_the_seed(store, tmp_path):
    torch.manual_seed(1)
    model = model_of("light_gcn", table={"method": "lsh_structure", "fraction": 0.4, **store})
    path = serve.save_recommender(model, tmp_path / "model.safetensors")
    sizes = set()
    for seed in range(2, 8):
        torch.manual_seed(seed)
        sizes.add(model_of("light_gcn", table=model.config["table"]).item_table.num_parameters)
        again = serve.load_recommender(path)
        assert torch.equal(again.recommend([5, 0])[0], model.recommend([5, 0])[0])
    assert len(sizes) > 1  # a table laid out anew would often not fit


def test_hnswlib_looks_at_as_many_candidates_as_asked_for(monkeypatch):
    seen = []

    class Index:
        def __init__(self, **_):
            pass

        def init_index(self, **_):
            pass

        def add_items(self, items, ids, **_):
            self.items = items

        def set_ef(self, ef):
            seen.append(ef)

        def knn_query(self, vectors, k, **_):
            scores = torch.from_numpy(vectors @ self.items.T)
            best = scores.topk(k)
            return best.indices.numpy(), 1.0 - best.values.numpy()

    monkeypatch.setitem(sys.modules, "hnswlib", SimpleNamespace(Index=Index))
    model = model_of("mf", dim=8)
    index = serve.ItemIndex(model, "hnswlib", ef=450)
    assert torch.equal(index.recommend([3], k=4)[0], model.recommend([3], k=4)[0])
    serve.ItemIndex(model, "hnswlib", ef=2).recommend([3], k=4, exclude_seen=False)
    assert seen == [450, 5]


def test_files_of_anything_else_are_refused(tmp_path):
    from safetensors.torch import save

    with pytest.raises(CheckpointError, match="cannot be read"):
        serve.load_recommender(tmp_path / "none.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    atomic_write_bytes(foreign, save({"x": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="format is None"):
        serve.load_recommender(foreign)
    path = serve.save_recommender(model_of("mf"), tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="cannot be read"):
        serve.load_recommender(path)
    with pytest.raises(InputError, match="call prepare"):
        serve.save_recommender(create_model("mf", num_users=2, num_items=2), path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "mpnn_vn"}, "does not fit together"),
        ({"name": "gone"}, "does not fit together"),
        ({"config": "{}"}, "does not fit together"),
        ({"config": '{"num_users": 5, "num_items": 30}'}, "does not fit together"),
        ({"config": "not json"}, "does not fit together"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save

    path = serve.save_recommender(model_of("mf"), tmp_path / "model.safetensors")
    with safe_open(path, framework="pt") as file:
        about = {**file.metadata(), **changes}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    atomic_write_bytes(path, save(tensors, metadata=about))
    with pytest.raises(CheckpointError, match=message):
        serve.load_recommender(path)


@pytest.mark.parametrize("kind", ["faiss", "hnswlib"])
def test_a_missing_library_is_named(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(InputError, match=r"not installed; pip install 'graphkit\[serve\]'"):
        serve.ItemIndex(model_of("mf"), kind)
    with pytest.raises(InputError, match="did you mean"):
        serve.ItemIndex(model_of("mf"), kind[:-1])
    with pytest.raises(InputError, match="no dot product"):
        serve.ItemIndex(model_of("neumf"), kind)


@pytest.mark.parametrize("kind", ["faiss", "hnswlib"])
def test_an_index_finds_what_the_model_recommends(kind, tmp_path):
    pytest.importorskip(kind)
    model = model_of("light_gcn", dim=8)
    index = serve.ItemIndex(model, kind)
    items, values = index.recommend([3, 17, 3], k=6)
    wanted, scores = model.recommend([3, 17, 3], k=6)
    assert torch.equal(items, wanted)
    torch.testing.assert_close(values, scores, rtol=1e-4, atol=1e-5)
    index.save(tmp_path / "items.index")
    assert (tmp_path / "items.index").stat().st_size > 0
    with pytest.raises(InputError, match="user_ids"):
        index.recommend([30])
    assert index.recommend([], k=3)[0].shape == (0, 3)
    assert "30 items" in repr(index)
