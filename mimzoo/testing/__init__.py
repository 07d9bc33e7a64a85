"""The conformance suite: what every component must do, for plugin authors to call from their own tests.

Each `check_*` takes the registered name of a component, and raises AssertionError with a sentence on what it breaks.
"""

from mimzoo.testing.decoders import check_decoder
from mimzoo.testing.encoders import check_encoder
from mimzoo.testing.heads import check_head
from mimzoo.testing.maskings import check_masking
from mimzoo.testing.objectives import check_objective

__all__ = ["check_decoder", "check_encoder", "check_head", "check_masking", "check_objective"]
