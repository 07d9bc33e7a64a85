"""What an evaluation found, in HTML tables, from its `metrics.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimzoo.errors import DataError
from mimzoo.markup import Markup, element, table

HEADINGS = {"hd95_mm": "HD95 (mm)", "lesion_hd95_mm": "lesion HD95 (mm)", "auc": "AUC", "r2": "R\u00b2"}
DASH = "\u2013"
Found = Mapping[str, Any]


def evaluation(path: Path) -> list[Markup]:
    """Return protocol, summary and cases of a `metrics.json`, nothing where there is none.

    Raises DataError for a file that `mimzoo evaluate` did not write.
    """
    if not path.is_file():
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        told = f"{found['data']}, {found['split']}: {found['protocol']}"
        return [element("h3", "Evaluation"), element("p", told), summary(found["summary"]), by_case(found["cases"])]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: is no evaluation ({error!r}); make it again with: mimzoo evaluate") from None


def summary(found: Found) -> Markup:
    """Return the summary: a row for each class of masks and their mean, or a row for each figure."""
    if "classes" in found:
        return masks(found)
    sensitivity = {f"sensitivity {name}": each for name, each in found.get("sensitivity", {}).items()}
    figures = {name: each for name, each in found.items() if isinstance(each, dict) and name != "sensitivity"}
    rows = [
        (heading(name), number(each["value"]), interval(each) or DASH, str(each["n"]))
        for name, each in {**figures, **sensitivity}.items()
    ]
    return table(["figure", "value", "95 % interval", "cases"], rows, "figures")


def masks(found: Found) -> Markup:
    """Return a table of classes, with the mean over them and its interval last."""
    names = list(found["metrics"])
    rows = [
        (name, *(spread(each["metrics"].get(metric)) for metric in names), str(each["n"]), str(each["n_absent"]))
        for name, each in found["classes"].items()
    ]
    means = [f"{number(each['mean'])} {interval(each)}".strip() for each in found["metrics"].values()]
    head = ["class", *map(heading, names), "cases", "absent"]
    return table(head, [*rows, ("mean (95 % interval)", *means, "", "")], "means")


def by_case(cases: Mapping[str, Found]) -> Markup:
    """Return every case, folded away: the Dice of each class, or what was told of it beside the truth."""
    first = next(iter(cases.values()), {})
    if "told" in first:
        head = ["case", "truth", *first["told"]]
        rows = [(name, f"{case['truth']:g}", *map(number, case["told"].values())) for name, case in cases.items()]
    else:
        head = ["case", *(f"Dice {name}" for name in first)]
        rows = [
            (name, *(DASH if found is None else number(found["dice"]) for found in case.values()))
            for name, case in cases.items()
        ]
    shown = table(head, rows, "figures")
    return element("details", element("summary", f"The {len(cases)} cases"), shown) if cases else Markup()


def heading(name: str) -> str:
    """Return what a figure is called in a table."""
    return HEADINGS.get(name, name.replace("_", " ").replace("dice", "Dice").replace("f1", "F1"))


def number(value: float | None) -> str:
    """Return a figure with three decimals, a dash where it is undefined."""
    return DASH if value is None else f"{value:.3f}"


def spread(figure: Found | None) -> str:
    """Return mean and standard deviation over cases."""
    if figure is None:
        return DASH
    return number(figure["mean"]) if figure["std"] is None else f"{figure['mean']:.3f} \u00b1 {figure['std']:.3f}"


def interval(figure: Found) -> str:
    """Return the 95 % interval of a figure, nothing where there is none."""
    return "" if figure["low"] is None else f"({figure['low']:.3f} to {figure['high']:.3f})"
