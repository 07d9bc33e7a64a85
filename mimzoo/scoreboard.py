"""Tables of what an evaluation found, for the eye."""

from rich.table import Table

from mimzoo.evaluate import Evaluation
from mimzoo.metrics import Classification, Figure, Paired, Regression, Summary
from mimzoo.metrics.statistics import Estimate
from mimzoo.results import heading

DASH = "-"


def scores_table(result: Evaluation) -> Table:
    """Return the summary as a table: a row for each class of masks, or a row for each figure of a classifier."""
    match result.summary:
        case Summary():
            return _masks_table(result.summary, result.protocol)
        case Classification():
            figures = {name: getattr(result.summary, name) for name in ("balanced_accuracy", "accuracy", "auc")}
            sensitivity = {f"sensitivity {name}": found for name, found in result.summary.sensitivity.items()}
            return _figures_table({**figures, **sensitivity}, result.protocol)
        case Regression():
            return _figures_table(vars(result.summary), result.protocol)


def _masks_table(summary: Summary, title: str) -> Table:
    table = Table("class", *(heading(name) for name in summary.metrics), "cases", "absent", title=title)
    for name, found in summary.classes.items():
        shown = [_spread(found.metrics.get(metric)) for metric in summary.metrics]
        table.add_row(name, *shown, str(found.n), str(found.n_absent))
    means = [f"{figure.mean:.3f}{_interval(figure.low, figure.high)}" for figure in summary.metrics.values()]
    table.add_row("mean (95 % interval)", *means, "", "", style="bold")
    return table


def _figures_table(figures: dict[str, Estimate], title: str) -> Table:
    table = Table("figure", "value", "95 % interval", "cases", title=title)
    for name, found in figures.items():
        value = DASH if found.value is None else f"{found.value:.3f}"
        table.add_row(heading(name), value, _interval(found.low, found.high).strip() or DASH, str(found.n))
    return table


def paired_table(found: Paired, first: str, second: str) -> Table:
    """Return a comparison of two models as a table."""
    table = Table("", "value", title=f"{first} against {second}, {found.n} cases, case by case")
    table.add_row(f"mean of {first}", f"{found.mean_first:.4f}")
    table.add_row(f"mean of {second}", f"{found.mean_second:.4f}")
    table.add_row("difference", f"{found.mean_difference:+.4f}{_interval(found.low, found.high)}")
    table.add_row("p (Wilcoxon signed-rank)", f"{found.p_value:.3g}")
    table.add_row("higher / lower / equal", f"{found.wins} / {found.losses} / {found.ties}")
    return table


def _spread(figure: Figure | None) -> str:
    if figure is None:
        return DASH
    return f"{figure.mean:.3f}" if figure.std is None else f"{figure.mean:.3f} ± {figure.std:.3f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
