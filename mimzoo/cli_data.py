"""`mimzoo data`: what comes before training."""

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(help="Make data sets of downloads, and look through them.", no_args_is_help=True)


@data_app.command()
def convert(
    layout: Annotated[
        str | None, typer.Argument(help="How the download is laid out; none lists what is known.")
    ] = None,
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="The unpacked download.")] = None,
) -> None:
    """Write a dataset.json beside the files of a public benchmark, as downloaded; nothing is copied or changed."""
    from mimzoo.data.layouts import LAYOUTS, describe
    from mimzoo.data.layouts import convert as run
    from mimzoo.errors import DataError

    if layout is None:
        for known in LAYOUTS.values():
            print(f"{known.name:16}{known.summary:42}{known.source}")
        return
    if folder is None:
        raise DataError(f"no folder is given; name it after the layout: mimzoo data convert {layout} DIR")
    path = run(layout, folder)
    print(describe(path))


@data_app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a data set.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A picture of the scans with their labels, such as sheet.png.")
    ] = None,
) -> None:
    """Look through a data set: what each case holds, and all that is wrong; exits with 1 when something is."""
    from mimzoo.data.check import check_dataset
    from mimzoo.data.report import report_tables
    from mimzoo.listing import cases_progress, show

    with cases_progress("check") as progress:
        report = check_dataset(folder, progress=progress)
    for table in report_tables(report):
        show(table)
        print()
    if out is not None:
        from mimzoo.figures.sheet import draw_sheet

        draw_sheet(out, report)
        print(out)
    count = len(report.problems)
    print(f"{folder}: {len(report.cases)} cases, {count or 'no'} problem{'' if count == 1 else 's'}")
    if count:
        raise typer.Exit(1)
