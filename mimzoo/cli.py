"""The command line: parse, call, print. Every command imports what it needs, so that listing never waits for torch."""

import io
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mimzoo import __version__, cli_models
from mimzoo.cli_data import data_app
from mimzoo.errors import MimzooError

app = typer.Typer(
    help="A zoo of masked-image-modelling encoders for 3D medical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

plugin_app = typer.Typer(help="Write plugins.", no_args_is_help=True)
app.add_typer(plugin_app, name="plugin")
app.add_typer(data_app, name="data")

# What deployment does without, and which extra brings it.
TRAINING = ("accelerate", "blosc2", "matplotlib", "monai", "onnx", "onnxscript", "scipy", "torch")
EXTRAS = {"huggingface_hub": "hub", **dict.fromkeys(TRAINING, "train")}

Model = Annotated[str, typer.Argument(help="A model: a bare name, a folder (./run), or hf://org/name@tag.")]
Data = Annotated[Path, typer.Option("--data", help="A folder with a Decathlon dataset.json, or of scans.")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="The run's folder; by default runs/NAME.")]
Scans = Annotated[list[str], typer.Argument(help="NIfTI scans; one of several files as flair.nii.gz,t1.nii.gz.")]
Folders = Annotated[list[str], typer.Argument(help="Folders of NIfTI scans, or scans; several files as a.nii,b.nii.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in the folder where it was stopped.")]
Start = Annotated[str | None, typer.Option("--from", help="Whose weights to begin from; `scratch` for none.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="Change a key of the card: key.path=value.")]
Trackers = Annotated[
    list[str] | None,
    typer.Option("--tracker", help="Told the figures: tensorboard, trackio, wandb, mlflow, none; may be repeated."),
]
EngineOption = Annotated[
    str | None, typer.Option("--engine", help="tensorrt, cuda, openvino or cpu; by default the first that is here.")
]
PrecisionOption = Annotated[str, typer.Option("--precision", help="float32, or bfloat16 where OpenVINO has it.")]
Threads = Annotated[int | None, typer.Option(help="Processor threads; by default all.")]
SaveSeconds = Annotated[float, typer.Option(help="Save the state at least this often.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that load crops beside the training, for each device.")]


def main() -> None:
    """Run the command line; a user's error prints one sentence and exits with 1, an interruption with 130."""
    if os.environ.get("RANK", "0") != "0":
        # Of the processes that a launcher starts together, only the first one tells how it goes.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (as long as the process lives)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may be no text.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app(standalone_mode=True)
    except MimzooError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        _fail(f"this needs {error.name}, which is not installed; pip install 'mimzoo[{EXTRAS[error.name]}]'")
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


app.command("list")(cli_models.list_)
app.command()(cli_models.info)
app.command()(cli_models.plan)
app.command("import")(cli_models.import_)
app.command()(cli_models.pull)
app.command()(cli_models.publish)
app.command()(cli_models.report)


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
    start: Start = None,
    resume: Resume = False,
    set_: Assignments = None,
    save_seconds: SaveSeconds = 60.0,
    workers: Workers = 0,
    tracker: Trackers = None,
) -> None:
    """Pretrain an encoder on scans without labels, from its card's recipe."""
    from mimzoo.options import start_assignment
    from mimzoo.pretrain import pretrain as run

    assignments = [*(set_ or []), *([start_assignment("pretraining", start)] if start else [])]
    _train(run, model, data, out, resume, assignments, save_seconds, workers, tracker)


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
    start: Start = None,
    labelled: Annotated[
        str | None, typer.Option(help="Train on that many labelled cases, or that share of them if below 1.")
    ] = None,
    fold: Annotated[str | None, typer.Option(help="Validate on one of K parts and train on the others: 0/5.")] = None,
    split: Annotated[
        Path | None, typer.Option(help="A JSON file with lists of case ids under `training` and `validation`.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, crops and the choice of few labels.")] = None,
    resume: Resume = False,
    set_: Assignments = None,
    save_seconds: SaveSeconds = 60.0,
    workers: Workers = 0,
    tracker: Trackers = None,
) -> None:
    """Train a model for a task, from its card's recipe."""
    from mimzoo.finetune import finetune as run
    from mimzoo.options import finetuning_assignments

    assignments = [*(set_ or []), *finetuning_assignments(start, labelled, fold, split, seed)]
    _train(run, model, data, out, resume, assignments, save_seconds, workers, tracker)


def _train(
    run: Any,
    model: str,
    data: Path,
    out: Path | None,
    resume: bool,
    assignments: list[str],
    save_seconds: float,
    workers: int,
    tracker: list[str] | None,
) -> None:
    from mimzoo.cards import override
    from mimzoo.hub import find_model
    from mimzoo.tracking import chosen_trackers
    from mimzoo.training import InterruptedRun

    card, trackers = override(find_model(model), assignments), chosen_trackers(tracker or [])
    folder = out or Path("runs") / card.name
    try:
        with _cases_progress("prepare") as progress:
            finished = run(
                card,
                data,
                folder,
                resume=resume,
                save_seconds=save_seconds,
                workers=workers,
                trackers=trackers,
                progress=progress,
            )
    except (InterruptedRun, KeyboardInterrupt) as stop:
        again = [word for word in sys.argv[1:] if word != "--resume"]
        again += ["--resume"] if (folder / "README.md").is_file() else []
        _fail(f"{str(stop) or 'interrupted'}; continue with: mimzoo {shlex.join(again)}", 130)
    weights = finished.block.weights
    print(
        f"{finished.name}: {folder / 'model.safetensors'} ({weights.bytes / 1e6:.1f} MB), card {folder / 'README.md'}, "
        f"report {folder / 'report.html'}"
    )


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(help="A model, or the runs of all folds with --folds.")],
    data: Data,
    split: Annotated[str, typer.Option(help="Which cases: training or validation.")] = "validation",
    against: Annotated[str | None, typer.Option(help="Another model, to compare with case by case.")] = None,
    folds: Annotated[bool, typer.Option("--folds", help="Pool the validation parts of all folds.")] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where the report goes; by default the run.")] = None,
) -> None:
    """Measure a model: masks in each scan's own grid, classes, or values; each with its 95 % interval over cases."""
    from mimzoo import evaluate as run
    from mimzoo.scoreboard import paired_table, scores_table
    from mimzoo.scoring import summary_values

    if len(models) > 1 and not folds:
        raise MimzooError("several models are given; add --folds to pool them, or compare two with --against")
    with _cases_progress("evaluate") as progress:
        if against is not None:
            where = out or Path("runs") / "comparison"
            found, folder = run.compare(models[0], against, data, split=split, out=where, progress=progress)
            _print(paired_table(found, models[0], against))
            print(f"{models[0]} against {against}: {folder / 'comparison.json'}")
            return
        if folds:
            result, folder = run.evaluate_folds(models, data, out or Path("runs") / "folds", progress)
        else:
            result, folder = run.evaluate(models[0], data, split=split, out=out, progress=progress)
    _print(scores_table(result))
    name, value = next(iter(summary_values(result.summary).items()))
    print(f"{result.model}: {name.replace('_', ' ')} {value:.4f}; see {folder / 'metrics.json'}")


@app.command()
def export(
    model: Model,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The ONNX file; by default model.onnx beside the card.")
    ] = None,
    scan: Annotated[Path | None, typer.Option(help="A real scan on which the graph must agree with the model.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Scans: of validation to agree on, of training to calibrate int8.")
    ] = None,
    precision: Annotated[str, typer.Option(help="float32; float16 for CUDA and TensorRT; or int8.")] = "float32",
    roi: Annotated[
        tuple[int, int, int] | None, typer.Option(help="The window in voxels, X Y Z; by default the card's crop.")
    ] = None,
) -> None:
    """Export a model as one ONNX file that holds all deployment needs, checked against the original."""
    from mimzoo.export import export as run
    from mimzoo.export import make_form

    path, parities = run(model, out, scan, make_form(precision, roi), data)
    for parity in parities:
        print(parity)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


@app.command()
def segment(
    model: Annotated[str, typer.Argument(help="An ONNX file, a folder with model.onnx, or a model's name.")],
    scans: Folders,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the masks, <scan>.nii.gz each.")],
    engine: EngineOption = None,
    precision: PrecisionOption = "float32",
    threads: Threads = None,
    overlap: Annotated[float | None, typer.Option(help="Share by which windows overlap.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Windows predicted at once.")] = 1,
    memory: Annotated[str | None, typer.Option(help="What it may take, network included: 4GB; by default all.")] = None,
    skip_background: Annotated[
        bool, typer.Option("--skip-background", help="Leave out windows in which every channel has one value.")
    ] = False,
    within_body: Annotated[bool, typer.Option("--within-body", help="Leave out the air around the body.")] = False,
    mirror: Annotated[
        str | None, typer.Option(help="Average over mirrored views: along xyz, xy, ..., or those of the card.")
    ] = None,
    minimum_ml: Annotated[
        list[str] | None, typer.Option(help="Drop smaller pieces: 0.5 for every label, Liver=5 for one; repeatable.")
    ] = None,
    largest_component: Annotated[
        list[str] | None, typer.Option(help="Keep the largest piece of this label, or of all; repeatable.")
    ] = None,
    fill_holes: Annotated[
        list[str] | None, typer.Option(help="Fill what this label encloses, or all do; repeatable.")
    ] = None,
) -> None:
    """Draw masks in the scans' own grids, without torch; what is done is not done again, what fails stops nothing."""
    from mimzoo.deploy import Polish, segment_files
    from mimzoo.deploy.components import amounts
    from mimzoo.deploy.engines import make_choice
    from mimzoo.deploy.memory import Manner, memory_bytes, mirror_axes

    choice = make_choice(engine, threads, precision)
    manner = Manner(
        overlap,
        batch,
        skip_background,
        None if memory is None else memory_bytes(memory),
        within_body,
        () if mirror is None else mirror_axes(mirror),
    )
    polish = Polish(amounts(minimum_ml or []), largest_component or (), fill_holes or ())
    try:
        with _cases_progress("segment") as progress:
            done, failures = segment_files(_onnx_of(model), scans, out, progress, choice, manner, print, polish)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on with what is left", 130)
    print(f"{len(done)} masks in {out}")
    if failures:
        for failure in failures:
            print(f"mimzoo: {failure}", file=sys.stderr)
        _fail(f"{len(failures)} scan(s) failed; the same command tries them again, and no other")


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="An ONNX file, a folder with model.onnx, or a model's name.")],
    scans: Scans,
    out: Annotated[Path, typer.Option("-o", "--out", help="The table, a CSV.")] = Path("predictions.csv"),
    engine: EngineOption = None,
    precision: PrecisionOption = "float32",
    threads: Threads = None,
) -> None:
    """Tell the class or value of whole scans, without torch; a scan that fails does not stop the others."""
    from mimzoo.deploy import predict_files, write_table
    from mimzoo.deploy.engines import make_choice

    with _cases_progress("predict") as progress:
        found, failures = predict_files(_onnx_of(model), scans, progress, make_choice(engine, threads, precision))
    write_table(out, found)
    for failure in failures:
        print(f"mimzoo: {failure}", file=sys.stderr)
    for scan, told in found.items():
        print(f"{scan}: {', '.join(f'{name} {value:.3f}' for name, value in told.items())}")
    print(f"{len(found)} of {len(scans)} scans in {out}")
    if failures:
        raise SystemExit(1)


@app.command()
def embed(
    model: Model,
    scans: Scans,
    out: Annotated[Path, typer.Option("-o", "--out", help="A safetensors file, a vector for each scan.")],
) -> None:
    """Write what an encoder makes of scans: one vector for each, the mean over its coarsest map."""
    from mimzoo.embed import embed as run

    with _cases_progress("embed") as progress:
        width = run(model, scans, out, progress)
    print(f"{out}: {len(scans)} vectors of {width} numbers")


@app.command()
def probe(
    model: Model,
    data: Data,
    column: Annotated[str | None, typer.Option(help="The column of the table to tell; by default the labels.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Where probe.json goes; by default runs/.")] = None,
) -> None:
    """Measure frozen features: how well a linear classifier and nearest neighbours tell classes from them."""
    from mimzoo.probe import probe as run
    from mimzoo.probe import probe_table

    with _cases_progress("probe") as progress:
        result, path = run(model, data, column, out, progress)
    _print(probe_table(result))
    print(f"{result.model} on {result.data}: see {path}")


def _onnx_of(model: str) -> Path:
    from mimzoo.cards import read_card
    from mimzoo.errors import ExportError
    from mimzoo.hub import find_model
    from mimzoo.verified import verify

    folder = Path(model)
    here = (folder / "model.onnx").is_file()
    if model.endswith(".onnx") or (here and not (folder / "README.md").is_file()):
        return folder
    # What is here needs no weights, which a card might have fetched.
    card = read_card(folder) if here else find_model(model)
    if card.block.onnx is None and card.file("model.onnx") is None:
        raise ExportError(f"{card.name} has no model.onnx; make one with: mimzoo export {model}")
    path = card.required("model.onnx")
    if card.block.onnx is not None:
        verify(path, card.block.onnx.sha256)
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
    from mimzoo.listing import show

    show(renderable)
