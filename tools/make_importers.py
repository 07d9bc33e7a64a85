"""Hold every importer against the classes whose checkpoints it reads, and write the table of `docs/importers.md`.

    python tools/make_importers.py

Each golden builds a small model of the peer's own class with random weights, saves it as the peer does, imports it, and
compares what both make of one volume. The tests run the same goldens.
"""

import os
import sys
import tempfile
import warnings
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from make_docs import generate

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "importers.md"
sys.path.insert(0, str(ROOT / "tests"))


def goldens_table() -> str:
    """Run all goldens in a store of their own."""
    import golden_nnssl
    import golden_swin
    import golden_vit

    rows = ["| format | held against | largest difference | activations up to |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        os.environ["MIMZOO_HOME"] = str(Path(name) / "home")
        for number, (golden, run) in enumerate(_all(golden_swin, golden_vit, golden_nnssl)):
            folder = Path(name) / str(number)
            folder.mkdir()
            found = run(folder)
            rows.append(f"| {golden} | {found.compared} | {found.difference:.1e} | {found.largest:.1f} |")
    return "\n".join(rows)


def _all(*modules: object) -> list[tuple]:
    return sorted(pair for module in modules for pair in module.GOLDENS.items())


def main() -> None:
    fresh = generate(PAGE, {"goldens": goldens_table})
    PAGE.write_text(fresh)
    print(f"{PAGE.name} written")


if __name__ == "__main__":
    main()
