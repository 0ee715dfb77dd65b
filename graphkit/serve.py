"""Put a trained recommender to work: files to carry it, and indexes for nearest-item search."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphkit.data.interactions import Interactions
from graphkit.errors import CheckpointError, InputError, nearest
from graphkit.models import Recommender, create_model
from graphkit.storage import atomic_write_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = "graphkit-recommender/1"
_PAIRS = "training_pairs"
_WEIGHTS = "model."
_KINDS = ("faiss", "hnswlib")


def save_recommender(model: Recommender, path: str | os.PathLike[str]) -> Path:
    """Write a recommender and its training pairs to one safetensors file.

    The pairs are what layers over the graph are built from, and what
    :meth:`~graphkit.models.Recommender.recommend` leaves out.

    Args:
        model: with training pairs.
        path: the file; replaced in one step.

    Raises:
        InputError: the model has no training pairs yet.
        StorageError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from graphkit.models import MatrixFactorization
        >>> model = MatrixFactorization(num_users=2, num_items=3, dim=4)
        >>> model.prepare(Interactions(torch.tensor([[0, 1], [2, 0]]), 2, 3))
        >>> file = save_recommender(model, tempfile.mkdtemp() + "/model.safetensors")
        >>> load_recommender(file).recommend([0], k=2)[0].shape
        torch.Size([1, 2])
    """
    from safetensors.torch import save

    pairs = model.prepared()
    small = max(pairs.num_users, pairs.num_items) <= 2**31
    tensors = {_PAIRS: pairs.edge_index.to(torch.int32 if small else torch.int64).contiguous()}
    for key, value in model.state_dict().items():
        tensors[_WEIGHTS + key] = value.detach().cpu().contiguous().clone()
    about = {"format": FORMAT, "name": model.name, "config": json.dumps(model.config)}
    target = Path(path)
    atomic_write_bytes(target, save(tensors, metadata=about))
    return target


def load_recommender(path: str | os.PathLike[str]) -> Recommender:
    """Read what :func:`save_recommender` wrote; nothing in the file is executed.

    Args:
        path: the file.

    Returns:
        The model in eval mode, with its training pairs.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    if about.get("format") != FORMAT or _PAIRS not in tensors:
        raise CheckpointError(
            f"{path}: format is {about.get('format')!r}, wanted {FORMAT!r}; it was not written by "
            "save_recommender"
        )
    try:
        config = json.loads(about["config"])
        model = create_model(about["name"], **config)
        if not isinstance(model, Recommender):
            raise CheckpointError(f"{path}: {about['name']} is no recommender")
        pairs = tensors.pop(_PAIRS)
        state = {k.removeprefix(_WEIGHTS): v for k, v in tensors.items()}
        # Tables as they were saved: hashes drawn anew might need another number of rows.
        model.lay_out(state)
        model.prepare(Interactions(pairs, model.num_users, model.num_items))
        model.load_state_dict(state)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: does not fit together: {error}") from None
    return model.eval()


class ItemIndex:
    """Approximate search for the items of largest score, by a library made for it.

    Items are found by the dot product of the model's final vectors. For some thousand items
    ``recommend`` is exact and as fast.

    Args:
        model: one whose score is a dot product.
        kind: ``"faiss"`` (an exact flat index, or ``factory``) or ``"hnswlib"`` (a graph).
        factory: a FAISS index description such as ``"IVF256,Flat"``.
        ef: of hnswlib: candidates kept in a search; larger is more exact and slower.
        links: of hnswlib: neighbours of each item in the graph.

    Attributes:
        index: the library's own object.

    Raises:
        InputError: the library is not installed, an unknown kind, or a model whose score is no
            dot product.
    """

    def __init__(
        self,
        model: Recommender,
        kind: str = "faiss",
        factory: str = "Flat",
        ef: int = 200,
        links: int = 32,
    ) -> None:
        if kind not in _KINDS:
            known = ", ".join(_KINDS)
            raise InputError(f"kind: {kind!r} is not one of {known}{nearest(kind, _KINDS)}")
        self.kind, self.model, self.ef = kind, model, ef
        users, items = embeddings(model)
        self.users = users
        library = _library(kind)
        if kind == "faiss":
            self.index = library.index_factory(
                items.shape[1], factory, library.METRIC_INNER_PRODUCT
            )
            if not self.index.is_trained:
                self.index.train(items)
            self.index.add(items)
        else:
            self.index = library.Index(space="ip", dim=items.shape[1])
            self.index.init_index(max_elements=len(items), ef_construction=ef, M=links)
            self.index.add_items(items, np.arange(len(items)), num_threads=1)

    def recommend(
        self, user_ids: Tensor | list[int], k: int = 20, exclude_seen: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Items and scores ``[B, k]``, best first, as ``model.recommend`` gives them.

        As many more items are fetched as the user with the most training pairs could lose.

        Raises:
            InputError: an id out of range, or fewer than ``k`` items left for a user.
        """
        ids = torch.as_tensor(user_ids, dtype=torch.int64).reshape(-1)
        if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= self.model.num_users):
            raise InputError(f"user_ids: wanted 0..{self.model.num_users - 1}")
        if not ids.numel():
            return torch.empty(0, k, dtype=torch.int64), torch.empty(0, k)
        pairs = self.model.prepared() if exclude_seen else None
        extra = int(pairs.user_degree[ids].max()) if pairs is not None else 0
        wanted = min(k + extra, self.model.num_items)
        items, values = self._search(self.users[ids.numpy()], wanted)
        seen = items < 0  # FAISS fills up with -1 where it found too few
        if pairs is not None:
            seen |= pairs.contains(ids[:, None], items.clamp(min=0))
        left = (~seen).sum(1)
        if int(left.min()) < k:
            worst = int(ids[int(left.argmin())])
            raise InputError(f"k: {k} items wanted, {int(left.min())} are left for user {worst}")
        first = torch.argsort(seen.to(torch.int8), dim=1, stable=True)[:, :k]
        return items.gather(1, first), values.gather(1, first)

    def _search(self, vectors: NDArray[np.float32], k: int) -> tuple[Tensor, Tensor]:
        if self.kind == "faiss":
            scores, items = self.index.search(vectors, k)
        else:
            self.index.set_ef(max(k + 1, self.ef))  # never below k, which the library refuses
            items, distances = self.index.knn_query(vectors, k=k, num_threads=1)
            scores = 1.0 - distances
        return torch.from_numpy(items.astype(np.int64)), torch.from_numpy(scores)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the library's own file, for a server that knows nothing of graphkit."""
        if self.kind == "faiss":
            _library("faiss").write_index(self.index, os.fspath(path))
        else:
            self.index.save_index(os.fspath(path))

    def __repr__(self) -> str:
        return f"ItemIndex({self.kind}, {self.model.num_items} items)"


def embeddings(model: Recommender) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Final vectors of users ``[U, d]`` and items ``[I, d]`` as float32 arrays.

    Raises:
        InputError: the score of the model is no dot product.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            both = model.representations()
    finally:
        model.train(was_training)
    users, items = (np.ascontiguousarray(x.detach().float().cpu().numpy()) for x in both)
    return users, items


def _library(kind: str) -> Any:
    try:
        if kind == "faiss":
            import faiss

            return faiss
        import hnswlib

        return hnswlib
    except ImportError as error:
        package = "faiss-cpu" if kind == "faiss" else kind
        raise InputError(
            f"kind: {kind!r} needs {package}, which is not installed; pip install 'graphkit[serve]'"
        ) from error
