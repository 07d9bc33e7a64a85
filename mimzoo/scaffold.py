"""A third party's plugin package to begin from: `mimzoo plugin new NAME`."""

import re
import sys
from importlib.resources import files
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from mimzoo.errors import PluginError
from mimzoo.registry import registry

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def write_plugin(name: str, parent: Path) -> Path:
    """Return the folder of a new package below `parent`: an encoder `name`, its tests and its pyproject.toml.

    Raises PluginError for a name that is not kebab-case, that is taken, or whose folder is there already.
    """
    _check_name(name)
    folder = parent / name
    if folder.exists():
        raise PluginError(f"{folder} is there already; choose another name, or another folder with --out")
    module = name.replace("-", "_")
    words = {"name": name, "module": module, "class_name": "".join(part.capitalize() for part in name.split("-"))}
    targets = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "init.py": f"{module}/__init__.py",
        "encoder.py": f"{module}/encoder.py",
        "test.py": f"tests/test_{module}.py",
    }
    parent.mkdir(parents=True, exist_ok=True)
    # Made beside its place and renamed, so that it is whole or absent.
    with TemporaryDirectory(dir=parent, prefix=".plugin-") as temporary:
        for source, target in targets.items():
            path = Path(temporary, name, target)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template((files("mimzoo") / "template" / f"{source}.txt").read_text()).substitute(words))
        Path(temporary, name).rename(folder)
    return folder


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        fixed = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")
        raise PluginError(f"{name!r} is no plugin name: small letters, digits and dashes; {fixed or 'my-encoder'!r} is")
    if name in {offer.name for offer in registry().of_kind("encoder")}:
        raise PluginError(f"an encoder is called {name!r} already; choose another name, such as 'my-{name}'")
    if name.replace("-", "_") in sys.stdlib_module_names or name == "mimzoo":
        raise PluginError(
            f"{name!r} is the name of a module that Python has already; choose another, such as 'my-{name}'"
        )
