"""Embedding tables by specification: a plain ``nn.Embedding``, or one that needs less memory."""

from graphkit.nn.embedding.clustering import (
    Clusters,
    bipartite_modularity,
    cluster_pairs,
    codes_of_size,
    find_resolution,
)
from graphkit.nn.embedding.codes import (
    Codes,
    double_codes,
    double_frequency_codes,
    double_graph_codes,
    frequency_codes,
    lsh_codes,
    random_codes,
    universal_hash,
)
from graphkit.nn.embedding.low_rank import (
    LowRankEmbedding,
    fold_decoder,
    mimic_linear,
    mimic_table,
)
from graphkit.nn.embedding.owner import TableOwner
from graphkit.nn.embedding.shared import (
    GRAD_SCALES,
    SharedArray,
    SharedEmbedding,
    SharedLinear,
)
from graphkit.nn.embedding.slots import MAPPINGS, Placement, SlotMap
from graphkit.nn.embedding.specs import (
    METHODS,
    STORES,
    Spec,
    check_no_leak,
    check_spec,
    make_table,
    materialize,
    needs_graph,
    resolve,
    restore,
)
from graphkit.nn.embedding.table import CodedEmbedding, EmbeddingTable

__all__ = [
    "GRAD_SCALES",
    "MAPPINGS",
    "METHODS",
    "STORES",
    "Clusters",
    "CodedEmbedding",
    "Codes",
    "EmbeddingTable",
    "LowRankEmbedding",
    "Placement",
    "SharedArray",
    "SharedEmbedding",
    "SharedLinear",
    "SlotMap",
    "Spec",
    "TableOwner",
    "bipartite_modularity",
    "check_no_leak",
    "check_spec",
    "cluster_pairs",
    "codes_of_size",
    "double_codes",
    "double_frequency_codes",
    "double_graph_codes",
    "find_resolution",
    "fold_decoder",
    "frequency_codes",
    "lsh_codes",
    "make_table",
    "materialize",
    "mimic_linear",
    "mimic_table",
    "needs_graph",
    "random_codes",
    "resolve",
    "restore",
    "universal_hash",
]
