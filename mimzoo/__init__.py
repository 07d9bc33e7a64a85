"""A zoo of masked-image-modelling encoders for 3D medical images.

encoder = mimzoo.load("vit-mae-hippocampus")    # a verified torch module
segment = mimzoo.Segmenter("model.onnx")        # ONNX Runtime, no torch
labels = segment("scan.nii.gz")                 # in the scan's own grid
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimzoo.cards import Card as Card
    from mimzoo.deploy import Predictor as Predictor
    from mimzoo.deploy import RegionSegmenter as RegionSegmenter
    from mimzoo.deploy import Segmenter as Segmenter
    from mimzoo.errors import MimzooError as MimzooError
    from mimzoo.hub import find_model as find_model
    from mimzoo.listing import info as info
    from mimzoo.listing import list_models as list_models
    from mimzoo.models import load as load
    from mimzoo.specs import hookimpl as hookimpl

__version__ = "0.1.0"

# Each public name is imported when first asked for, so that deployment never waits for torch.
_PUBLIC = {
    "Card": "mimzoo.cards",
    "MimzooError": "mimzoo.errors",
    "Predictor": "mimzoo.deploy",
    "RegionSegmenter": "mimzoo.deploy",
    "Segmenter": "mimzoo.deploy",
    "find_model": "mimzoo.hub",
    "hookimpl": "mimzoo.specs",
    "info": "mimzoo.listing",
    "list_models": "mimzoo.listing",
    "load": "mimzoo.models",
}
__all__ = [
    "Card",
    "MimzooError",
    "Predictor",
    "RegionSegmenter",
    "Segmenter",
    "__version__",
    "find_model",
    "hookimpl",
    "info",
    "list_models",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mimzoo' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
