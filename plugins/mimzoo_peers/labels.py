"""Names for the outputs of imported segmenters: a file of tensors tells only how many there are."""

from mimzoo.errors import WeightsError
from mimzoo.recipes import Labels

# In the order of the challenge (Landman et al. 2015, Synapse syn3193805), which is that of the published weights.
BTCV = (
    "spleen",
    "right kidney",
    "left kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior vena cava",
    "portal and splenic veins",
    "pancreas",
    "right adrenal gland",
    "left adrenal gland",
)


def name_outputs(labels: str, outputs: int) -> Labels:
    """Return the names of a segmenter's outputs but the first, the background: `numbered`, or those of `btcv`.

    Raises WeightsError where there are as many outputs as no such labels have.
    """
    if outputs < 2:
        raise WeightsError(f"it has {outputs} output, but exclusive labels need two or more, the background among them")
    if labels == "numbered":
        return {value: f"class {value}" for value in range(1, outputs)}
    if outputs != 1 + len(BTCV):
        raise WeightsError(
            f"labels=btcv names {len(BTCV)} organs beside the background, but it has {outputs} outputs; "
            "use labels=numbered"
        )
    return dict(enumerate(BTCV, start=1))
