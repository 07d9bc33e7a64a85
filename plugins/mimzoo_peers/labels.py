"""Names for the outputs of imported segmenters: a file of tensors tells only how many there are."""

from mimzoo.data.layouts.btcv import BTCV
from mimzoo.errors import WeightsError
from mimzoo.recipes import Labels


def name_outputs(labels: str, outputs: int) -> Labels:
    """Return the names of a segmenter's outputs but the first, the background: `numbered`, or those of `btcv`.

    Raises WeightsError where there are as many outputs as no such labels have.
    """
    if outputs < 2:
        raise WeightsError(f"it has {outputs} output, but exclusive labels need two or more, the background among them")
    if labels == "numbered":
        return {value: f"class {value}" for value in range(1, outputs)}
    if outputs != 1 + len(BTCV.labels):
        raise WeightsError(
            f"labels=btcv names {len(BTCV.labels)} organs beside the background, but it has {outputs} outputs; "
            "use labels=numbered"
        )
    return dict(enumerate(BTCV.labels, start=1))
