"""Click-through-rate models over user and item tables that may be compressed."""

from graphkit.models.ctr.base import ClickModel
from graphkit.models.ctr.dcnv2 import DCNv2
from graphkit.models.ctr.deepfm import DeepFM
from graphkit.models.ctr.dlrm import DLRM
from graphkit.models.ctr.wide_deep import WideDeep

__all__ = ["DLRM", "ClickModel", "DCNv2", "DeepFM", "WideDeep"]
