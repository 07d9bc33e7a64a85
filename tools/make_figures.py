"""Write the second half of `docs/pretraining.md`: what pretraining runs reached, and a figure of each.

    python tools/make_figures.py RUN...

Each RUN is a finished folder of `mimzoo pretrain`; its picture is copied to `docs/figures/<card>.png`.
"""

import argparse
import csv
import shutil
from pathlib import Path

from mimzoo.cards import read_card
from mimzoo.models import load

DOCS = Path(__file__).parents[1] / "docs"
PAGE, FIGURES = DOCS / "pretraining.md", DOCS / "figures"
BEGIN, END = "<!-- runs: generated -->", "<!-- runs: end -->"
HEAD = "| card | encoder | parameters | objective | hidden | crops | loss, first | loss, best | baseline |"


def runs_table(runs: list[Path]) -> str:
    """Return a row for each run: the validation loss when it was first measured, and at its best."""
    return "\n".join([HEAD, "|---" * 9 + "|", *(row_of(run) for run in runs)])


def row_of(run: Path) -> str:
    card, first = read_card(run), first_loss(run)
    recipe, best = card.block.pretraining, {metric.name: metric.value for metric in card.block.metrics}
    assert recipe is not None  # `mimzoo pretrain` made it
    millions = sum(parameter.numel() for parameter in load(run).parameters()) / 1e6
    hidden = f"{recipe.masking.args['ratio']:.0%}, {recipe.masking.name}" if recipe.masking else ""
    losses = f"{first:.3f} | {best['validation loss']:.3f} | {best['baseline loss']:.3f}"
    names = f"`{card.name}` | `{card.block.encoder.name}` | {millions:.1f} M | {recipe.objective.name}"
    return f"| {names} | {hidden} | {recipe.steps * recipe.batch} | {losses} |"


def first_loss(run: Path) -> float:
    with (run / "history.csv").open() as file:
        rows = csv.DictReader(file)
        return next(float(row["value"]) for row in rows if (row["split"], row["name"]) == ("validation", "loss"))


def figure_of(run: Path) -> str:
    """Return the Markdown of a run's picture, copied beside the page."""
    name = read_card(run).name
    FIGURES.mkdir(exist_ok=True)
    shutil.copy(run / "reconstruction.png", FIGURES / f"{name}.png")
    return f"### {name}\n\n![Original, masked and reconstructed crop in three planes](figures/{name}.png)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    runs = parser.parse_args().runs
    page = PAGE.read_text()
    before, after = page[: page.index(BEGIN) + len(BEGIN)], page[page.index(END) :]
    parts = [runs_table(runs), *(figure_of(run) for run in runs)]
    PAGE.write_text("\n\n".join([before, *parts, after]))
    print(f"{PAGE}: {len(runs)} runs, their figures in {FIGURES}")


if __name__ == "__main__":
    main()
