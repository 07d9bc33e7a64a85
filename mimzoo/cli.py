"""The command line: parse, call, print. Every command imports what it needs, so that listing never waits for torch."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mimzoo import __version__
from mimzoo.errors import MimzooError

app = typer.Typer(
    help="A zoo of masked-image-modelling encoders for 3D medical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

plugin_app = typer.Typer(help="Write plugins.", no_args_is_help=True)
app.add_typer(plugin_app, name="plugin")

# What the `train` extra brings, and deployment does without.
TRAINING = {"accelerate", "blosc2", "matplotlib", "monai", "onnx", "onnxscript", "scipy", "torch"}

Model = Annotated[str, typer.Argument(help="A model: a bare name, a folder (./run), or hf://org/name@tag.")]
Data = Annotated[Path, typer.Option("--data", help="A folder with a Decathlon dataset.json, or of scans.")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="The run's folder; by default runs/NAME.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in the folder where it was stopped.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="Change a key of the card: key.path=value.")]
SaveSeconds = Annotated[float, typer.Option(help="Save the state at least this often.")]


def main() -> None:
    """Run the command line; a user's error prints one sentence and exits with 1, an interruption with 130."""
    try:
        app(standalone_mode=True)
    except MimzooError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except ModuleNotFoundError as error:
        if error.name not in TRAINING:
            raise
        _fail(f"this command needs {error.name}, which is not installed; pip install 'mimzoo[train]'")
    except OSError as error:
        # Full disks and forbidden folders are the user's to mend; anything else keeps its traceback.
        _fail(f"{error.strerror or error}: {error.filename or 'a file'}; free space or choose another folder")


def _fail(sentence: str, code: int = 1) -> None:
    print(f"mimzoo: {sentence}", file=sys.stderr)
    raise SystemExit(code)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"mimzoo {__version__}")
        raise typer.Exit


@app.command("list")
def list_() -> None:
    """List the models that have a name, and where their weights are."""
    from mimzoo.listing import models_table

    _print(models_table())


@app.command()
def plugins() -> None:
    """Show who offers what, and which plugins failed; exits with 1 when one failed or two are in conflict."""
    from mimzoo.listing import plugins_table
    from mimzoo.registry import registry

    found = registry()
    _print(plugins_table(found))
    problems = [*map(str, found.failures), *found.conflicts()]
    if problems:
        for problem in problems[:-1]:
            print(f"mimzoo: {problem}", file=sys.stderr)
        _fail(problems[-1])


@plugin_app.command("new")
def plugin_new(
    name: Annotated[str, typer.Argument(help="The encoder's name, such as my-encoder.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the package's folder goes.")] = Path(),
) -> None:
    """Write a package with an encoder of your own: it installs, is found and passes its tests at once."""
    from mimzoo.scaffold import write_plugin

    folder = write_plugin(name, out)
    print(f"{folder}: pip install {folder}, then mimzoo plugins and pytest {folder / 'tests'}")


@app.command()
def pretrain(
    model: Model,
    data: Data,
    out: Out = None,
    resume: Resume = False,
    set_: Assignments = None,
    save_seconds: SaveSeconds = 60.0,
) -> None:
    """Pretrain an encoder on scans without labels, from its card's recipe."""
    from mimzoo.pretrain import pretrain as run

    _train(run, model, data, out, resume, set_ or [], save_seconds)


@app.command()
def reconstruct(
    model: Model,
    scan: Annotated[Path, typer.Argument(help="A NIfTI scan.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The picture.")] = Path("reconstruction.png"),
    seed: Annotated[int, typer.Option(help="Decides what is hidden.")] = 0,
) -> None:
    """Draw what a pretrained encoder makes of a scan: original, masked, reconstructed, in three planes."""
    from mimzoo.reconstruct import reconstruct as run

    print(run(model, scan, out, seed))


@app.command()
def finetune(
    model: Model,
    data: Data,
    out: Out = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Whose encoder weights to begin from; `scratch` for none.")
    ] = None,
    resume: Resume = False,
    set_: Assignments = None,
    save_seconds: SaveSeconds = 60.0,
) -> None:
    """Train a segmenter on labelled scans, from its card's recipe."""
    from mimzoo.finetune import finetune as run

    assignments = list(set_ or [])
    if start is not None:
        assignments.append(f"finetuning.start={'null' if start == 'scratch' else start}")
    _train(run, model, data, out, resume, assignments, save_seconds)


def _train(
    run: Any, model: str, data: Path, out: Path | None, resume: bool, assignments: list[str], save_seconds: float
) -> None:
    from mimzoo.cards import override
    from mimzoo.hub import find_model
    from mimzoo.training import InterruptedRun

    card = override(find_model(model), assignments)
    folder = out or Path("runs") / card.name
    try:
        with _cases_progress("prepare") as progress:
            finished = run(card, data, folder, resume=resume, save_seconds=save_seconds, progress=progress)
    except InterruptedRun as stop:
        again = [word for word in sys.argv[1:] if word != "--resume"]
        _fail(f"{stop}; continue with: mimzoo {shlex.join([*again, '--resume'])}", 130)
    weights = finished.block.weights
    print(
        f"{finished.name}: {folder / 'model.safetensors'} ({weights.bytes / 1e6:.1f} MB), card {folder / 'README.md'}"
    )


@app.command()
def evaluate(
    model: Model,
    data: Data,
    split: Annotated[str, typer.Option(help="Which cases: training or validation.")] = "validation",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where the report goes; by default the run.")] = None,
) -> None:
    """Measure a segmenter: Dice, HD95 and surface Dice per class, in each scan's own grid."""
    from mimzoo.evaluate import evaluate as run
    from mimzoo.evaluate import scores_table

    with _cases_progress("evaluate") as progress:
        result, folder = run(model, data, split=split, out=out, progress=progress)
    _print(scores_table(result))
    print(f"{result.model}: mean Dice {result.summary.dice:.4f}; {folder / 'metrics.json'}, {folder / 'overlays.png'}")


@app.command()
def export(
    model: Model,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The ONNX file; by default model.onnx beside the card.")
    ] = None,
    scan: Annotated[Path | None, typer.Option(help="A real scan on which the graph must agree with the model.")] = None,
) -> None:
    """Export a segmenter as one ONNX file that holds all deployment needs, checked against the model."""
    from mimzoo.export import export as run

    path, parities = run(model, out, scan)
    for parity in parities:
        print(parity)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


@app.command()
def segment(
    model: Annotated[str, typer.Argument(help="An ONNX file, a folder with model.onnx, or a model's name.")],
    scans: Annotated[list[Path], typer.Argument(help="NIfTI scans.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the masks, <scan>.nii.gz each.")],
    threads: Annotated[int | None, typer.Option(help="Processor threads; by default all.")] = None,
) -> None:
    """Draw masks in the scans' own grids, with ONNX Runtime alone; a scan that fails does not stop the others."""
    from mimzoo.deploy import segment_files

    with _cases_progress("segment") as progress:
        done, failures = segment_files(_onnx_of(model), scans, out, progress, threads)
    for failure in failures:
        print(f"mimzoo: {failure}", file=sys.stderr)
    print(f"{len(done)} of {len(scans)} masks in {out}")
    if failures:
        raise SystemExit(1)


def _onnx_of(model: str) -> Path:
    from mimzoo.errors import ExportError
    from mimzoo.hub import find_model

    if model.endswith(".onnx") or Path(model, "model.onnx").is_file():
        return Path(model)
    card = find_model(model)
    path = card.file("model.onnx")
    if path is None:
        raise ExportError(f"{card.name} has no model.onnx; make one with: mimzoo export {model}")
    return path


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option("--data", help="A labelled data set; by default generated phantoms.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for all that the demo makes.")] = Path("runs/demo"),
) -> None:
    """Walk the whole road once: pretrain, fine-tune from few labels, evaluate, export, segment, look."""
    from mimzoo.demo import demo as run
    from mimzoo.training import InterruptedRun

    try:
        with _cases_progress("demo") as progress:
            run(out, data, progress=progress)
    except InterruptedRun as stop:
        _fail(f"{stop}; remove {out} and call the demo again", 130)


def _cases_progress(title: str) -> Any:
    from mimzoo.listing import cases_progress

    return cases_progress(title)


def _print(renderable: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "160"))).print(renderable)
