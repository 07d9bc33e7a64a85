"""Commands about models that there are: list, info, plan, publish, pull, import, report."""

from pathlib import Path
from typing import Annotated

import typer


def list_(
    pattern: Annotated[str, typer.Argument(metavar="[FILTER]", help="Names to show, such as 'swin-*'.")] = "*",
) -> None:
    """List the models that have a name: size, data, licence, metrics, and where their weights are."""
    from mimzoo.listing import models_table, show

    show(models_table(pattern))


def info(
    model: Annotated[str, typer.Argument(help="A model: a bare name, a folder (./run), or hf://org/name@tag.")],
) -> None:
    """Tell what a model is: what it sees, where it comes from, its licences, its metrics, where its weights are."""
    from mimzoo.listing import info_table, show

    show(info_table(model))


def plan(
    model: Annotated[str, typer.Argument(help="A model: a bare name, a folder (./run), or hf://org/name@tag.")],
    memory: Annotated[str | None, typer.Option(help="What each device has: 24GB, 24GiB, 8000MB.")] = None,
    task: Annotated[
        str | None, typer.Option(help="pretraining or finetuning; by default what the card is for.")
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="Devices that share the batch.")] = 1,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change a key of the card: key.path=value.")] = None,
) -> None:
    """Tell what training a model takes: parameters, operations, memory, the largest batch that fits."""
    from mimzoo import planning
    from mimzoo.cards import override
    from mimzoo.hub import find_model
    from mimzoo.listing import show

    available = None if memory is None else planning.read_memory(memory)
    found = planning.plan(override(find_model(model), set_ or []), task, devices)
    print(planning.describe(found))
    show(planning.plan_table(found, available))
    advice = None if available is None else planning.advise(found, available)
    if advice is not None:
        print(advice)


def publish(
    model: Annotated[str, typer.Argument(help="A run's folder (./run), or the bare name of a model.")],
    repo: Annotated[
        str | None, typer.Option(help="The repository, org/name; by default that which the card states.")
    ] = None,
    tag: Annotated[str | None, typer.Option(help="The tag; by default that which the card states, or v1.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be published, and change nothing.")
    ] = False,
) -> None:
    """Publish a model on the Hugging Face Hub: one commit, a tag that never moves, fetched back and compared."""
    from mimzoo.publish import publish as run

    done = run(model, repo, tag, private=private, dry_run=dry_run)
    for file in done.files:
        print(f"{file.sha256}  {file.bytes:>12}  {file.name}")
    for name in done.deleted:
        print(f"{'deleted from the repository':64}  {'':>12}  {name}")
    if done.restated:
        print(f"README.md: its model-index {'is' if done.made else 'would be'} brought up to date")
    size = f"{len(done.files)} files, {sum(file.bytes for file in done.files) / 1e6:.1f} MB"
    outcome = "published" if done.made else "nothing to do, the same content is there" if done.commit else "dry run"
    print(f"{outcome}: hf://{done.repo}@{done.tag} ({size}) at {done.url}")


def pull(
    model: Annotated[str, typer.Argument(help="A bare name whose card states a repository, or hf://org/name@tag.")],
    name: Annotated[str | None, typer.Option(help="What it is called here; by default as there.")] = None,
) -> None:
    """Bring a model into the local store, where it loads by its name without network."""
    from mimzoo.stored import pull as run
    from mimzoo.stored import target_folder

    folder = target_folder(model, name)
    there = folder.is_dir()
    card = run(model, name)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{folder.name}: {card.kind}, {size:.1f} MB {'there already' if there else 'now'} in {folder}")


def import_(
    format: Annotated[str, typer.Argument(help="The format of the checkpoint; see docs/importers.md.")],
    file: Annotated[Path, typer.Argument(help="The checkpoint, as another project saved it.")],
    name: Annotated[str, typer.Option(help="What the model is called here.")],
    option: Annotated[
        list[str] | None, typer.Option(help="What the file does not tell: key=value, such as merge=legacy.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change a key of its card: key.path=value.")] = None,
) -> None:
    """Bring another project's checkpoint into the local store, where it loads by its name."""
    from mimzoo.importing import import_checkpoint
    from mimzoo.options import importer_options

    done = import_checkpoint(format, file, name, importer_options(option or []), set_ or [])
    print(done)
    card = done.card
    weights = card.block.weights
    assert weights is not None and card.folder is not None  # it was imported just now
    print(f"{card.name}: {card.kind}, {weights.bytes / 1e6:.1f} MB now in {card.folder}; mimzoo.load({card.name!r})")


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder, such as runs/NAME.")],
) -> None:
    """Write a run's report.html again: what it is, curves, pictures, figures, recipe, on one page."""
    from mimzoo.report import report_run

    print(report_run(run))
