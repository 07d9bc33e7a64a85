"""Masks and predictions from scans with numpy, nibabel and an engine for ONNX files: no torch."""

from mimzoo.deploy.choice import LOGITS, VOLUME, Choice
from mimzoo.deploy.components import Polish
from mimzoo.deploy.engines import ENGINES
from mimzoo.deploy.files import predict_files, split_files, write_table
from mimzoo.deploy.folder import segment_files
from mimzoo.deploy.graph import MODEL_FILE
from mimzoo.deploy.memory import Manner
from mimzoo.deploy.metadata import Metadata
from mimzoo.deploy.models import Deployed, Predictor, RegionSegmenter, Scan, Segmenter, open_model

__all__ = [
    "ENGINES",
    "LOGITS",
    "MODEL_FILE",
    "VOLUME",
    "Choice",
    "Deployed",
    "Manner",
    "Metadata",
    "Polish",
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
