"""Masks and predictions from scans with ONNX Runtime alone: numpy and nibabel, no torch."""

from mimzoo.deploy.files import predict_files, segment_files, split_files, write_table
from mimzoo.deploy.graph import LOGITS, MODEL_FILE, VOLUME
from mimzoo.deploy.metadata import Metadata
from mimzoo.deploy.models import Deployed, Predictor, RegionSegmenter, Scan, Segmenter, open_model

__all__ = [
    "LOGITS",
    "MODEL_FILE",
    "VOLUME",
    "Deployed",
    "Metadata",
    "Predictor",
    "RegionSegmenter",
    "Scan",
    "Segmenter",
    "open_model",
    "predict_files",
    "segment_files",
    "split_files",
    "write_table",
]
