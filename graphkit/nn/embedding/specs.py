"""From the specification of a table, as it stands in a recipe, to the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphkit.errors import InputError, nearest
from graphkit.nn.embedding.clustering import Clusters, cluster_pairs, codes_of_size
from graphkit.nn.embedding.codes import (
    Codes,
    double_codes,
    double_frequency_codes,
    double_graph_codes,
    frequency_codes,
    lsh_codes,
    random_codes,
)
from graphkit.nn.embedding.low_rank import LowRankEmbedding, mimic_table
from graphkit.nn.embedding.shared import SharedArray, SharedEmbedding, num_slots
from graphkit.nn.embedding.slots import MAPPINGS
from graphkit.nn.embedding.table import CodedEmbedding

Spec = Mapping[str, Any]
METHODS = (
    "full", "random", "frequency", "double", "double_frequency", "lsh", "lsh_structure", "graph",
    "double_graph",
)  # fmt: skip
STORES = ("dense", *MAPPINGS, "low_rank")
_SIZES = ("gamma", "rows", "fraction")
_SHARED = ("ratio", "block", "init_scale", "exact_std", "signed")
_KEYS = ("method", *_SIZES, "seed", "store", *_SHARED, "rank")


def make_table(
    num_rows: int,
    dim: int,
    spec: Spec | None = None,
    *,
    init: Callable[[Tensor], Any],
    codes: Codes | None = None,
) -> nn.Module:
    """Make a table of ``num_rows`` vectors.

    ==========================  =================================================================
    key of ``spec``             meaning
    ==========================  =================================================================
    ``method``                  which row an id looks up: ``full`` (its own), ``random``,
                                ``frequency``, ``double``, ``double_frequency``, ``lsh``,
                                ``lsh_structure``, ``graph`` (GraphHash) or ``double_graph``
    ``gamma``                   sizes both tables as GraphHash with this resolution does; or
                                ``rows`` (a number, or one for ``user`` and ``item`` each), or
                                ``fraction`` of the ids of each side. All methods keep exactly so
                                many rows; only ``lsh`` and ``lsh_structure`` may differ
    ``seed``                    of all hashes; by default the seed of torch's generator
    ``store``                   how the rows are kept: ``dense``, ``hashednet``, ``robe``,
                                ``roast``, ``randomfold`` (with ``ratio``, ``block``,
                                ``init_scale``, ``exact_std``, ``signed``) or ``low_rank`` (with
                                ``rank``)
    ==========================  =================================================================

    Args:
        num_rows: ids 0..num_rows-1 can be looked up.
        dim: length of a vector.
        spec: how the table is stored; ``None`` for one row per id.
        init: fills the stored weights in place. Shared stores begin uniform, scaled to the
            deviation that ``init`` gives.
        codes: what :func:`resolve` gave for ``spec``.

    Raises:
        InputError: a size below 1, an unknown key or value, codes that are missing or of another
            size.

    Example:
        >>> from torch.nn.init import zeros_, normal_
        >>> make_table(3, 2, init=zeros_).weight.shape
        torch.Size([3, 2])
        >>> make_table(100, 8, {"store": "randomfold", "ratio": 0.25}, init=normal_).num_parameters
        200
    """
    for name, size in (("num_rows", num_rows), ("dim", dim)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError(f"{name}: {size!r}, wanted an integer of at least 1")
    check_spec(spec)
    spec = spec or {}
    if not needs_graph(spec):
        if codes is not None:
            raise InputError("codes: given, but spec has no method that looks ids up through codes")
        return _store(num_rows, dim, spec, init)
    if codes is None:
        raise InputError(
            f"codes: none, but table.method={spec['method']!r} needs them; make them with "
            "graphkit.nn.embedding.resolve(spec, interactions, side)"
        )
    if len(codes.rows) != num_rows:
        raise InputError(f"codes: of {len(codes.rows)} ids, the table is for {num_rows}")
    return CodedEmbedding(codes, _store(codes.num_rows, dim, spec, init))


def needs_graph(spec: Spec | None) -> bool:
    """Whether a table of this kind can be made only when the training pairs are known.

    Example:
        >>> needs_graph(None), needs_graph({"method": "graph", "gamma": 5})
        (False, True)
    """
    return spec is not None and spec.get("method", "full") != "full"


def resolve(spec: Spec | None, interactions: Any, side: str) -> Codes | None:
    """Codes of the ids of one side that follow from the training pairs.

    Args:
        spec: see :func:`make_table`.
        interactions: has ``num_users``, ``num_items`` and the training pairs ``edge_index``;
            ``lsh`` reads ``user_features`` and ``item_features`` too. Pairs in ``held_out``, where
            there are any, must not be among those for training.
        side: ``"user"`` or ``"item"``.

    Returns:
        ``None`` where ids are their own rows.

    Raises:
        InputError: a spec that is not understood, or held-out pairs in the graph.

    Example:
        >>> from types import SimpleNamespace
        >>> pairs = torch.tensor([[0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 0, 1, 2, 3, 2, 3]])
        >>> seen = SimpleNamespace(num_users=4, num_items=4, edge_index=pairs)
        >>> resolve({"method": "graph", "gamma": 1.0}, seen, "item").rows.tolist()
        [0, 0, 1, 1]
    """
    if side not in ("user", "item"):
        raise InputError(f"side: {side!r}, wanted 'user' or 'item'")
    check_spec(spec)
    if spec is None or not needs_graph(spec):
        return None
    users, items = int(interactions.num_users), int(interactions.num_items)
    pairs: Tensor = interactions.edge_index
    held_out = getattr(interactions, "held_out", None)
    if held_out is not None:
        check_no_leak(pairs, held_out, items)
    own = pairs[0 if side == "user" else 1]
    num_ids = users if side == "user" else items
    method = spec["method"]
    clusters: Clusters | None = None
    if "gamma" in spec:
        clusters = cluster_pairs(pairs, users, items, float(spec["gamma"]))
    rows = _num_rows(spec, clusters, num_ids, side)
    generator = _generator(spec, side)
    if method == "random":
        return random_codes(num_ids, rows)
    if method == "double":
        return double_codes(num_ids, rows, generator)
    if method == "lsh":
        features = getattr(interactions, f"{side}_features", None)
        if features is None:
            raise InputError(
                f"method: 'lsh' hashes {side} features and there are none; 'lsh_structure' hashes "
                "the rows of the interaction matrix"
            )
        return lsh_codes(features.float(), rows, generator)
    if method == "lsh_structure":
        return lsh_codes(_matrix(pairs, users, items, side), rows, generator)
    if method in ("frequency", "double_frequency"):
        counts = torch.bincount(own, minlength=num_ids)
        if method == "frequency":
            return frequency_codes(counts, rows)
        return double_frequency_codes(counts, rows, generator)
    if clusters is None:
        found = Codes(*codes_of_size(pairs, users, items, side, rows))
    else:
        found = Codes(clusters.user_codes if side == "user" else clusters.item_codes, rows)
    return found if method == "graph" else double_graph_codes(found, generator)


def restore(
    num_rows: int, dim: int, spec: Spec | None, saved: Mapping[str, Any], prefix: str
) -> nn.Module | None:
    """A table of the layout that was saved, without the training pairs; its codes are all 0.

    Args:
        num_rows, dim, spec: as for :func:`make_table`.
        saved: tensors, or their shapes, by key.
        prefix: of the table's keys.

    Returns:
        ``None`` where nothing is saved of this table.

    Raises:
        InputError: shapes that fit no table of this specification.

    Example:
        >>> spec = {"method": "graph", "gamma": 5}
        >>> restore(3, 4, spec, {"codes": (3,), "store.weight": (2, 4)}, "").store
        Embedding(2, 4)
    """
    if spec is None or not needs_graph(spec) or f"{prefix}codes" not in saved:
        return None
    codes = _shape(saved[f"{prefix}codes"])
    rows = _saved_rows(dim, spec, saved, f"{prefix}store.")
    if len(codes) not in (1, 2) or codes[0] != num_rows or rows < 1:
        raise InputError(
            f"{prefix}codes: saved with {list(codes)} for {rows} rows, the table is for "
            f"{num_rows} ids"
        )
    found = Codes(torch.zeros(codes, dtype=torch.int64, device="cpu"), rows)
    return make_table(num_rows, dim, spec, init=nn.init.normal_, codes=found)


def _saved_rows(dim: int, spec: Spec, saved: Mapping[str, Any], prefix: str) -> int:
    """How many rows a saved store has; 0 where that cannot be told."""
    for key in ("weight", "factors.weight"):
        if f"{prefix}{key}" in saved:
            return (*_shape(saved[f"{prefix}{key}"]), 0)[0]
    array = saved.get(f"{prefix}virtual.array.weight")
    if array is None or "ratio" not in spec:
        return 0
    slots = (*_shape(array), 0)[0]
    layout = saved.get(f"{prefix}virtual.layout")
    if isinstance(layout, Tensor) and not layout.is_meta and layout.shape == (3,):
        rows = int(layout[1])
        return rows if num_slots(spec["ratio"], rows * dim) == slots else 0
    # Without values the fewest rows with these shapes stand for all that have them.
    folds = (*_shape(saved.get(f"{prefix}virtual.array.folds", ())), 0)[0]
    least = max(math.ceil(slots / (spec["ratio"] * dim)), ((folds - 1) * slots + dim) // dim)
    for rows in range(max(least - 1, 1), least + 2):
        fits = num_slots(spec["ratio"], rows * dim) == slots
        if fits and slots and -(-rows * dim // slots) == folds:
            return rows
    return 0


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else tuple(value)


def materialize(table: nn.Module) -> Tensor:
    """All vectors of a table, ``[num_rows, dim]``.

    Example:
        >>> materialize(nn.Embedding(3, 2)).shape
        torch.Size([3, 2])
    """
    if isinstance(table, nn.Embedding):
        return table.weight
    out: Tensor = table.materialize()  # type: ignore[operator]
    return out


def check_no_leak(pairs: Tensor, held_out: Tensor, num_items: int) -> None:
    """Refuse validation or test pairs in the graph that is clustered.

    Raises:
        InputError: names the first one.

    Example:
        >>> check_no_leak(torch.tensor([[0], [1]]), torch.tensor([[1], [0]]), 2)
    """
    keys, held = (p[0].long() * num_items + p[1] for p in (pairs, held_out))
    leaked = torch.isin(held, keys)
    if bool(leaked.any()):
        user, item = held_out[:, leaked][:, 0].tolist()
        raise InputError(
            f"pairs: user {user} with item {item} is held out for validation or test and "
            f"{int(leaked.sum())} such pairs are in the training graph; cluster training pairs only"
        )


def check_spec(spec: Spec | None) -> None:
    """Refuse a specification that is not understood.

    Raises:
        InputError: names the key, what was seen and what is wanted.

    Example:
        >>> check_spec({"method": "frequency", "gamma": 10})
    """
    if spec is None:
        return
    if not isinstance(spec, Mapping):
        raise InputError(f"table: {spec!r}, wanted a mapping such as {{'method': 'graph', ...}}")
    for key in spec:
        if key not in _KEYS:
            raise InputError(
                f"table.{key}: unknown key{nearest(str(key), _KEYS)}; keys are {', '.join(_KEYS)}"
            )
    method, store = spec.get("method", "full"), spec.get("store", "dense")
    for name, value, known in (("method", method, METHODS), ("store", store, STORES)):
        if value not in known:
            raise InputError(
                f"table.{name}: {value!r} is not one of {', '.join(known)}"
                f"{nearest(str(value), known)}"
            )
    sizes = [key for key in _SIZES if key in spec]
    if method == "full" and sizes:
        raise InputError(f"table.{sizes[0]}: has no effect with method 'full'")
    if method != "full" and len(sizes) != 1:
        raise InputError(
            f"table: method {method!r} wants one of gamma, rows and fraction, got "
            f"{' and '.join(sizes) or 'none'}"
        )
    _check_number(spec, "gamma", float("inf"))
    _check_number(spec, "fraction", 1.0)
    if store in MAPPINGS and "ratio" not in spec:
        raise InputError(f"table.ratio: missing, store {store!r} wants a number in (0, 1]")
    if store == "low_rank" and "rank" not in spec:
        raise InputError("table.rank: missing, store 'low_rank' wants it")
    used = _SHARED if store in MAPPINGS else ("rank",) if store == "low_rank" else ()
    for key in (*_SHARED, "rank"):
        if key in spec and key not in used:
            raise InputError(f"table.{key}: has no effect with store {store!r}")


def _check_number(spec: Spec, key: str, largest: float) -> None:
    if key not in spec:
        return
    value = spec[key]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= largest or value == float("inf"):
        wanted = "a positive number" if largest == float("inf") else "a number in (0, 1]"
        raise InputError(f"table.{key}: {value!r}, wanted {wanted}")


def _num_rows(spec: Spec, clusters: Clusters | None, num_ids: int, side: str) -> int:
    if clusters is not None:
        return clusters.num_user_codes if side == "user" else clusters.num_item_codes
    if "fraction" in spec:
        return max(round(spec["fraction"] * num_ids), 1)
    rows = spec["rows"]
    if isinstance(rows, Mapping):
        if set(rows) != {"user", "item"}:
            raise InputError(f"table.rows: keys {sorted(rows)}, wanted user and item, or a number")
        rows = rows[side]
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise InputError(f"table.rows: {rows!r}, wanted an integer of at least 1")
    return rows


def _generator(spec: Spec, side: str) -> torch.Generator:
    seed = spec.get("seed")
    if seed is None:
        seed = torch.initial_seed()
    elif isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"table.seed: {seed!r}, wanted an integer of at least 0")
    return torch.Generator().manual_seed((2 * seed + (side == "item")) % (1 << 63))


def _matrix(pairs: Tensor, users: int, items: int, side: str) -> Tensor:
    """The interaction matrix, rows of one side; sparse, because Gowalla's would take 9.8 GB."""
    index, size = (pairs, (users, items)) if side == "user" else (pairs.flip(0), (items, users))
    return torch.sparse_coo_tensor(
        index, torch.ones(pairs.size(1)), size, check_invariants=True
    ).coalesce()


def _store(num_rows: int, dim: int, spec: Spec, init: Callable[[Tensor], Any]) -> nn.Module:
    kind = spec.get("store", "dense")
    if kind == "dense":
        table = nn.Embedding(num_rows, dim)
        init(table.weight.data)
        return table
    whole = torch.empty(num_rows, dim)
    init(whole)
    if whole.is_meta:  # only the shapes are wanted
        whole = torch.tensor([[-1.0, 1.0]], device="cpu")
        if kind == "low_rank":
            return LowRankEmbedding(num_rows, dim, spec["rank"])
    if kind == "low_rank":
        rank = spec["rank"]
        LowRankEmbedding(1, dim, rank)  # refuses a rank that does not fit
        return mimic_table(whole, torch.ones(num_rows), rank)
    std = float(whole.std(correction=0))
    if not std > 0:
        raise InputError(f"init: all values are equal, so store {kind!r} cannot take their spread")
    options = {key: spec[key] for key in _SHARED if key in spec}
    seed = spec.get("seed", torch.initial_seed() % (1 << 62))
    array = SharedArray(num_rows * dim, mapping=kind, seed=seed, **options)
    return SharedEmbedding(num_rows, dim, array, std=std)
