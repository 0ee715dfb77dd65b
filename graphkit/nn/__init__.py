"""Layers: the message-passing base, convolutions, virtual nodes, encoders, readouts."""

from graphkit.nn.attention_convs import GATConv, GATv2Conv, TransformerConv
from graphkit.nn.encoders import (
    AtomEncoder,
    BondEncoder,
    EmbeddingSum,
    bond_code,
    edge_encoder,
    node_encoder,
)
from graphkit.nn.encodings import LapPEEncoder, RWSEEncoder
from graphkit.nn.gated_gcn_conv import GatedGCNConv
from graphkit.nn.gcn2_conv import GCN2Conv
from graphkit.nn.gcn_conv import GCNConv, gcn_norm
from graphkit.nn.gin_conv import GINConv, GINEConv
from graphkit.nn.han_conv import HANConv
from graphkit.nn.hgt_conv import HGTConv
from graphkit.nn.message_passing import MessagePassing
from graphkit.nn.ogb_conv import OGBGCNConv, OGBGINConv
from graphkit.nn.pna_conv import PNAConv
from graphkit.nn.pooling import (
    batch_segments,
    broadcast,
    global_add_pool,
    global_max_pool,
    global_mean_pool,
    pool,
)
from graphkit.nn.propagation_convs import APPNP, ChebConv, LGConv
from graphkit.nn.res_gated_graph_conv import ResGatedGraphConv
from graphkit.nn.sage_conv import SAGEConv
from graphkit.nn.virtual_node import DeepSetsVN, VirtualNode, append_virtual_nodes

__all__ = [
    "APPNP",
    "AtomEncoder",
    "BondEncoder",
    "ChebConv",
    "DeepSetsVN",
    "EmbeddingSum",
    "GATConv",
    "GATv2Conv",
    "GCN2Conv",
    "GCNConv",
    "GINConv",
    "GINEConv",
    "GatedGCNConv",
    "HANConv",
    "HGTConv",
    "LGConv",
    "LapPEEncoder",
    "MessagePassing",
    "OGBGCNConv",
    "OGBGINConv",
    "PNAConv",
    "RWSEEncoder",
    "ResGatedGraphConv",
    "SAGEConv",
    "TransformerConv",
    "VirtualNode",
    "append_virtual_nodes",
    "batch_segments",
    "bond_code",
    "broadcast",
    "edge_encoder",
    "gcn_norm",
    "global_add_pool",
    "global_max_pool",
    "global_mean_pool",
    "node_encoder",
    "pool",
]
