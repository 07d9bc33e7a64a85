"""The libraries whose checkpoints are imported, as oracles: timm and dynamic-network-architectures beside MONAI.

timm asks for torchvision, of which nothing is needed here; where it is not installed, an empty one stands in.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from dataclasses import dataclass


class _Name(type):
    """A class whose attributes are their own names."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Anything(types.ModuleType):
    """A module with every class that is asked for."""

    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name(name, (), {"__init__": lambda self, *args, **kwargs: None})


class _Torchvision(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Anything(spec.name)

    def exec_module(self, module):
        pass


if importlib.util.find_spec("torchvision") is None:
    sys.meta_path.append(_Torchvision())


@dataclass(frozen=True)
class Golden:
    """How far an imported model is from the peer's own: the largest difference of an activation, and the largest one.

    `compared` says what was held against what.
    """

    difference: float
    largest: float
    compared: str
