"""Tables of evaluations: every figure with its interval, and a dash where there is none."""

import numpy as np
from rich.console import Console

from mimzoo.evaluate import Evaluation
from mimzoo.metrics import Scores, compare_paired, score_classification, score_regression, summarise
from mimzoo.results import heading
from mimzoo.scoreboard import paired_table, scores_table


def shown(table):
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def evaluation(summary):
    return Evaluation("model", "data", "validation", "validation split, n=4", {}, summary)


def test_masks_have_a_row_for_each_class_and_the_mean_with_its_interval():
    cases = {f"case{n}": {"Liver": Scores(dice=0.5 + n / 10, hd95_mm=2.0), "Spleen": None} for n in range(4)}
    text = shown(scores_table(evaluation(summarise(cases))))
    assert "Dice" in text and "HD95 (mm)" in text and "validation split, n=4" in text
    liver, spleen = (next(line for line in text.splitlines() if name in line) for name in ("Liver", "Spleen"))
    assert "0.650 ± 0.129" in liver and "2.000 ± 0.000" in liver
    assert "│ 0" in spleen and "4" in spleen
    mean = next(line for line in text.splitlines() if "mean" in line)
    assert "0.650 (0." in mean and " to 0." in mean


def test_classes_have_a_row_for_each_figure_and_sensitivity():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    found = score_classification(probabilities, np.array([0, 1, 1, 1]), ["CN", "AD"])
    text = shown(scores_table(evaluation(found)))
    for name in ("balanced accuracy", "accuracy", "AUC", "sensitivity CN", "sensitivity AD"):
        assert name in text
    assert "0.750" in text


def test_an_undefined_figure_is_a_dash():
    found = score_regression(np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    line = next(line for line in shown(scores_table(evaluation(found))).splitlines() if "R²" in line)
    assert line.count("-") == 2


def test_a_comparison_says_how_often_and_by_how_much():
    first, second = ({str(n): value + n / 100 for n in range(6)} for value in (0.7, 0.6))
    text = shown(paired_table(compare_paired(first, second), "new", "old"))
    assert "new against old, 6 cases" in text and "+0.1000" in text and "6 / 0 / 0" in text


def test_figures_are_called_by_the_terms_of_the_field():
    assert [heading(name) for name in ("lesion_f1", "surface_dice", "auc")] == ["lesion F1", "surface Dice", "AUC"]
