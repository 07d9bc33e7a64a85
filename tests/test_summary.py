"""Summaries of scored cases, by hand: by class, over the classes, with intervals."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from mimzoo.errors import DataError
from mimzoo.metrics import ClassSummary, Scores, score_case, summarise
from mimzoo.recipes import Scoring

CASES = {
    "a": {"Liver": Scores(0.8, 2.0, 0.9), "Spleen": Scores(0.5, 10.0, 0.4), "Kidney": None},
    "b": {"Liver": Scores(0.9, 4.0, 0.7), "Spleen": None, "Kidney": None},
    "c": {"Liver": Scores(0.0, 300.0, 0.0), "Spleen": Scores(0.7, 6.0, 0.8), "Kidney": None},
}


def mean(summary, metric="dice"):
    return summary.metrics[metric].mean


def test_summary_by_class():
    classes = summarise(CASES).classes
    liver, spleen = classes["Liver"], classes["Spleen"]
    means = [mean(liver, metric) for metric in ("dice", "hd95_mm", "surface_dice")]
    assert means == pytest.approx([1.7 / 3, 102.0, 1.6 / 3])
    assert liver.metrics["dice"].std == pytest.approx(np.std([0.8, 0.9, 0.0], ddof=1))
    assert (liver.n, liver.n_absent, spleen.n, spleen.n_absent) == (3, 0, 2, 1)
    assert spleen.metrics["hd95_mm"].std == pytest.approx(np.std([10.0, 6.0], ddof=1))
    assert classes["Kidney"] == ClassSummary({}, n=0, n_absent=3)


def test_summary_over_the_classes_that_are_shown():
    summary = summarise(CASES)
    assert mean(summary, "dice") == pytest.approx((1.7 / 3 + 0.6) / 2)
    assert mean(summary, "hd95_mm") == pytest.approx((102 + 8) / 2)
    assert mean(summary, "surface_dice") == pytest.approx((1.6 / 3 + 0.6) / 2)
    assert (summary.metrics["dice"].n, summary.metrics["dice"].std) == (3, None)


def test_only_what_was_asked_for_is_summarised():
    assert summarise(CASES).metrics.keys() == {"dice", "hd95_mm", "surface_dice"}
    summary = summarise({"a": {"Liver": Scores(lesion_f1=0.5)}})
    assert summary.metrics.keys() == summary.classes["Liver"].metrics.keys() == {"lesion_f1"}


def test_too_much_and_too_little_volume_do_not_cancel():
    scores = [Scores(volume_difference=value) for value in (0.5, -0.5, 0.3)]
    summary = summarise({str(case): {"Liver": found, "Spleen": found} for case, found in enumerate(scores)})
    for found in (summary, summary.classes["Liver"]):
        assert mean(found, "volume_difference") == pytest.approx(0.1)
        assert mean(found, "absolute_volume_difference") == pytest.approx(1.3 / 3)


def test_lesion_scores_count_the_cases_that_have_lesions():
    scores = [Scores(dice=0.5, lesion_dice=value) for value in (0.25, None, 0.75)]
    summary = summarise({str(case): {"Liver": found} for case, found in enumerate(scores)})
    for found in (summary, summary.classes["Liver"]):
        assert (mean(found, "lesion_dice"), found.metrics["lesion_dice"].n, found.metrics["dice"].n) == (0.5, 2, 3)


def test_intervals_hold_the_mean_and_narrow_with_more_cases():
    rng = np.random.default_rng(0)

    def spread(count):
        cases = {str(n): {"Liver": Scores(dice), "Spleen": None} for n, dice in enumerate(rng.random(count))}
        summary = summarise(cases)
        over, liver = summary.metrics["dice"], summary.classes["Liver"].metrics["dice"]
        assert liver.low < liver.mean < liver.high
        # One class is shown: the mean over classes is its own.
        assert (over.mean, over.low, over.high) == pytest.approx((liver.mean, liver.low, liver.high))
        return liver.high - liver.low

    assert spread(160) < spread(40) / 1.5 < spread(10)


def test_the_interval_over_the_classes_resamples_whole_cases():
    # Where one class gains what the other loses, the mean over both is the same however cases are drawn.
    rng = np.random.default_rng(1)
    cases = {str(n): {"a": Scores(dice), "b": Scores(1 - dice)} for n, dice in enumerate(rng.random(20))}
    over = summarise(cases).metrics["dice"]
    assert (over.mean, over.low, over.high) == pytest.approx((0.5, 0.5, 0.5))


def test_a_missed_organ_lowers_the_mean():
    organ, empty = np.ones((9, 9, 9), np.uint8), np.zeros((9, 9, 9), np.uint8)
    hit, miss = (score_case(found, organ, (1.0, 1.0, 1.0), {1: "Organ"}, Scoring()) for found in (organ, empty))
    assert mean(summarise({"a": hit, "b": miss})) == 0.5


def test_one_case_has_no_deviation_and_two_no_interval():
    one, two = summarise({"a": {"Liver": Scores(0.5)}}), summarise({case: {"Liver": Scores(0.5)} for case in "ab"})
    assert one.classes["Liver"].metrics["dice"].std is None
    assert two.classes["Liver"].metrics["dice"].std == 0
    assert [two.metrics["dice"].low, two.classes["Liver"].metrics["dice"].high] == [None, None]


def test_summary_is_plain_json():
    read = json.loads(json.dumps(asdict(summarise(CASES)), allow_nan=False))
    assert read["classes"]["Kidney"] == {"metrics": {}, "n": 0, "n_absent": 3}
    assert read["metrics"]["dice"].keys() == {"mean", "std", "low", "high", "n"}


@pytest.mark.parametrize(
    ("cases", "says"),
    [
        ({}, "no scored cases"),
        ({"a": {"Liver": None}}, "none of Liver"),
        ({"a": {"Liver": Scores(0.5)}, "b": {"Spleen": Scores(0.5)}}, "case b"),
        ({"a": {"Liver": Scores(float("nan"))}}, "case a .* not a number"),
        ({"a": {"Liver": Scores(0.5, float("inf"), 0.1)}}, "case a .* not a number"),
        ({"a": {"Liver": Scores(0.5)}, "b": {"Liver": Scores(0.5, 1.0)}}, "case b has other metrics than case a"),
    ],
)
def test_what_cannot_be_summarised_is_refused(cases, says):
    with pytest.raises(DataError, match=says):
        summarise(cases)
