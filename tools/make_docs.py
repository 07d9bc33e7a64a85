"""Write the generated parts of the docs, or with --check fail when one of them is out of date.

    python tools/make_docs.py [--check]

A generated part lies between `<!-- NAME: generated -->` and `<!-- NAME: end -->`.
"""

import inspect
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from mimzoo import specs
from mimzoo.cards import find_card
from mimzoo.listing import weights_state
from mimzoo.registry import KINDS, registry

ROOT = Path(__file__).parents[1]


def zoo_table() -> str:
    rows = ["| model | what it is | data (licence) | metrics | size | weights |", "|---|---|---|---|---|---|"]
    for offer in registry().of_kind("card"):
        card = find_card(offer.name)
        recipe = card.block.finetuning or card.block.pretraining
        metrics = ", ".join(f"{metric.name} {metric.value:.3f}" for metric in card.block.metrics)
        link = f"[`{card.name}`](model_cards/{card.name}/README.md)"
        data = f"{recipe.data if recipe else ''} ({card.block.licence.data})"
        what = f"{card.kind}, `{card.block.encoder.name}`"
        weights = card.block.weights
        size = f"{weights.bytes / 1e6:.1f} MB" if weights else ""
        rows.append(f"| {link} | {what} | {data} | {metrics} | {size} | {weights_state(card)} |")
    return "\n".join(rows)


def measured_table(name: str) -> str:
    """What the shipped metrics.json of a segmenter says of each class, with intervals of 95 % over cases."""
    summary = json.loads((ROOT / "model_cards" / name / "metrics.json").read_text(encoding="utf-8"))["summary"]
    columns = {"dice": ("Dice", 3), "hd95_mm": ("HD95 (mm)", 1), "surface_dice": ("surface Dice at 1 mm", 3)}
    rows = [f"| `{name}` | {' | '.join(title for title, _ in columns.values())} | cases |", "|---|---|---|---|---|"]
    for title, found in [*summary["classes"].items(), ("mean", summary)]:
        figures = [(found["metrics"][key], digits) for key, (_, digits) in columns.items()]
        told = [f"{x['mean']:.{n}f} ({x['low']:.{n}f} to {x['high']:.{n}f})" for x, n in figures]
        rows.append(f"| {title} | {' | '.join(told)} | {figures[0][0]['n']} |")
    return "\n".join(rows)


SHIPPED = sorted(path.parent.name for path in (ROOT / "model_cards").glob("*/metrics.json"))


def components_table() -> str:
    rows = ["| kind | name | what it is | source |", "|---|---|---|---|"]
    offers = (offer for kind in KINDS for offer in registry().of_kind(kind))
    rows += [f"| {each.kind} | `{each.name}` | {each.value.summary} | {each.value.source} |" for each in offers]
    return "\n".join(rows)


def importers_table() -> str:
    rows = ["| format | what it is | options | licence of published weights | cite |", "|---|---|---|---|---|"]
    for offer in registry().of_kind("importer"):
        spec = offer.value
        options = ", ".join(f"`{name}`" for name in spec.args.model_fields)
        licence = spec.licence if spec.licence != "unknown" else "not stated"
        licence += "" if spec.republish else "; not to be passed on"
        name = f"[`{spec.name}`]({spec.url})" if spec.url else f"`{spec.name}`"
        rows.append(f"| {name} | {spec.summary} | {options} | {licence} | {spec.source} |")
    return "\n".join(rows)


def hooks_table() -> str:
    rows = ["| hook | returns |", "|---|---|"]
    for name, hook in vars(specs).items():
        if name.startswith("mimzoo_"):
            returned = str(inspect.signature(hook).return_annotation).replace("mimzoo.specs.", "")
            rows.append(
                f"| `{name}{inspect.signature(hook)}` | {inspect.getdoc(hook)} |".replace(f" -> {returned}", "")
            )
    return "\n".join(re.sub(r" -> [^`]*`", "`", row) for row in rows)


def commands() -> list[tuple[str, Any]]:
    """Every command with its full name, those of groups included."""
    from mimzoo.cli import app

    groups = [("", app), *((f"{group.name} ", group.typer_instance) for group in app.registered_groups)]
    return [
        (prefix + (command.name or command.callback.__name__), command)
        for prefix, group in groups
        for command in group.registered_commands
    ]


def commands_table() -> str:
    rows = ["| command | what it does |", "|---|---|"]
    for name, command in commands():
        summary = (inspect.getdoc(command.callback) or "").splitlines()[0]
        rows.append(f"| `mimzoo {name}` | {summary} |")
    return "\n".join(rows)


PARTS = {
    "README.md": {
        "measured": lambda: "\n\n".join(map(measured_table, SHIPPED)),
        "zoo": zoo_table,
        "commands": commands_table,
    },
    **{f"model_cards/{name}/README.md": {"measured": partial(measured_table, name)} for name in SHIPPED},
    "docs/importers.md": {"importers": importers_table},
    "CONTRIBUTING.md": {"hooks": hooks_table, "components": components_table},
}


def generate(path: Path, parts: dict) -> str:
    text = path.read_text()
    for name, make in parts.items():
        begin, end = f"<!-- {name}: generated -->", f"<!-- {name}: end -->"
        if begin not in text or end not in text:
            raise SystemExit(f"{path}: no part marked {begin} ... {end}")
        text = text[: text.index(begin) + len(begin)] + f"\n{make()}\n" + text[text.index(end) :]
    return text


def missing_docstrings() -> list[str]:
    """What ruff cannot see: commands without help text."""
    return [name for name, command in commands() if not inspect.getdoc(command.callback)]


def speaks_of_others() -> list[str]:
    """Tracked files that name paths of a machine: the project speaks of itself alone."""
    found = subprocess.run(
        ["git", "grep", "-lE", r"/(work|root|home)/[a-z]", "--", ".", ":!tools/make_docs.py", ":!tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.split()


def main() -> None:
    stale = []
    for name, parts in PARTS.items():
        path = ROOT / name
        fresh = generate(path, parts)
        if fresh != path.read_text():
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(fresh)
    problems = [*missing_docstrings(), *(f"{name} names a machine's path" for name in speaks_of_others())]
    if "--check" in sys.argv:
        problems += [f"{name} is out of date: run `make docs`" for name in stale]
    else:
        print(f"wrote {', '.join(stale) or 'nothing: all is up to date'}")
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
