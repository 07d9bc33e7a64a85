"""The layers: a module imports only from below, and what must run without torch does."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"mimzoo", "errors", "specs", "recipes", "tasks", "sides", "files"},
    {
        "registry",
        "blocks",
        "cards",
        "verified",
        "scaffold",
        "grids",
        "regrid",
        "nifti",
        "masks",
        "volume",
        "slabs",
        "bodies",
        "sliding",
        "sweep",
        "answers",
        "planes",
        "palette",
    },
    {"endpoint", "hub", "publish", "stored", "deploy", "listing", "markup", "results", "sessions"},
    {
        "tokens",
        "transformer",
        "norms",
        "loaded",
        "weights",
        "checkpoints",
        "models",
        "data",
        "metrics",
        "losses",
        "protocols",
        "inference",
        "scoring",
        "figures",
        "phantoms",
        "processes",
        "draws",
        "sharding",
        "convolutions",
        "recompute",
        "progress",
        "faults",
        "training",
        "rehearsal",
        "tracking",
        "report",
        "runs",
        "testing",
        "starts",
    },
    {
        "reconstruct",
        "importing",
        "pretrain",
        "finetune",
        "evaluate",
        "scoreboard",
        "export",
        "parity",
        "graphs",
        "embed",
        "probe",
        "demo",
        "planning",
    },
    {"cli", "cli_data", "cli_models", "options", "__main__"},
]
HEAVY = {"torch", "monai", "accelerate", "blosc2", "matplotlib", "scipy", "onnx"}


def layer_of(module):
    """The layer of `mimzoo.<part>...`, by its first part."""
    part = module.split(".")[1] if "." in module else "mimzoo"
    found = [number for number, names in enumerate(LAYERS) if part in names]
    assert found, f"{module} has no layer: give it one in {__file__}"
    return found[0]


def imports_of(source):
    """The modules that a source imports at run time, wherever it does so; types alone may come from above."""
    tree = ast.parse(source)
    typed = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = {id(child) for node in typed for child in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "mimzoo":
            yield from (f"mimzoo.{alias.name}" for alias in node.names if not alias.name.startswith("__"))
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def violations(module, source):
    """What a module imports although its layer must not."""
    own = layer_of(module)
    for imported in imports_of(source):
        top = imported.split(".")[0]
        if (top == "mimzoo" and layer_of(imported) > own) or (top in HEAVY and own < 3):
            yield imported


def modules():
    for path in sorted((ROOT / "mimzoo").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path.read_text()


@pytest.mark.parametrize(("module", "source"), [pytest.param(*pair, id=pair[0]) for pair in modules()])
def test_a_module_imports_only_from_its_layer_and_below(module, source):
    assert list(violations(module, source)) == []


def cycle_in(sources):
    """Modules that import each other in a circle, or nothing: leaves are taken away until none is left."""
    left = {
        module: {i for i in imports_of(source) if i in sources and i != module} for module, source in sources.items()
    }
    while leaves := [module for module, needs in left.items() if not needs & left.keys()]:
        for module in leaves:
            del left[module]
    return sorted(left)


def test_no_modules_import_each_other_in_a_circle():
    assert cycle_in(dict(modules())) == []


def test_the_circle_check_can_fail():
    assert cycle_in({"mimzoo.a": "import mimzoo.b", "mimzoo.b": "from mimzoo import a"}) == ["mimzoo.a", "mimzoo.b"]


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "from mimzoo.models import load",
        "def f():\n    import monai.losses",
        "from mimzoo import training",
    ],
)
def test_the_layer_check_can_fail(source):
    assert list(violations("mimzoo.deploy", source))


LEAN = ["import mimzoo, mimzoo.deploy, mimzoo.hub", "import runpy, sys; sys.argv = ['mimzoo', 'list']; run()"]


def loaded_after(code):
    """The heavy packages in memory after running `code` in a fresh interpreter."""
    prelude = "import sys\ndef run():\n    from mimzoo.cli import app\n    app(standalone_mode=False)\n"
    # nibabel takes the light top of scipy along where it is installed.
    tail = f"\nprint('HEAVY', *sorted(set(sys.modules) & {HEAVY - {'scipy'}!r}))"
    done = subprocess.run([sys.executable, "-c", prelude + code + tail], capture_output=True, text=True, check=True)
    return done.stdout.rsplit("HEAVY", 1)[1].split()


@pytest.mark.parametrize("code", LEAN)
def test_light_work_leaves_torch_unimported(code):
    assert loaded_after(code) == []


def test_the_check_for_torch_can_fail():
    assert "torch" in loaded_after("import mimzoo.training")
