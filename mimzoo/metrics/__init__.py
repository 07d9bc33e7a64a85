"""How well a model does, with uncertainty: of masks in the scan's own grid, of classes, of numbers, of two runs.

Policy for absent organs, the same for all metrics of masks:
- absent in truth and prediction: no score (None), left out of the means and counted as `n_absent`;
- present in only one of them: the worst score, so that a missed organ can never raise a mean: Dice, surface Dice,
  lesion Dice and lesion F1 are 0, the distances the diagonal of the image in mm, the relative volume difference -1
  where the organ was missed and +1 where it was made up, and the count difference the number of lesions.
"""

from mimzoo.metrics.classification import Classification, score_classification
from mimzoo.metrics.regression import Regression, score_regression
from mimzoo.metrics.scores import METRICS, Scores, score_case, score_masks
from mimzoo.metrics.statistics import Estimate, Interval, Paired, bootstrap, compare_paired, estimate
from mimzoo.metrics.summary import ClassSummary, Figure, Summary, summarise

__all__ = [
    "METRICS",
    "ClassSummary",
    "Classification",
    "Estimate",
    "Figure",
    "Interval",
    "Paired",
    "Regression",
    "Scores",
    "Summary",
    "bootstrap",
    "compare_paired",
    "estimate",
    "score_case",
    "score_classification",
    "score_masks",
    "score_regression",
    "summarise",
]
