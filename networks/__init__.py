"""Networks: normalised images in, logits at network stride out; no labels, no losses."""

from networks.factory import build
from networks.spec import NetworkSpec, SegmentationOutput

__all__ = ["NetworkSpec", "SegmentationOutput", "build"]
