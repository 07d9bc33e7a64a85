"""What goes wrong, in one sentence each: what was given, what is allowed, the nearest match, what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class MimzooError(Exception):
    """Every error that a user can cause; its text is one sentence fit to be printed as it is."""


class UnknownNameError(MimzooError):
    """A component, card or option that nobody offers."""


class PluginError(MimzooError):
    """A plugin that cannot be used: broken, misspelt, or in conflict with another."""


class CardError(MimzooError):
    """A model card that does not follow the schema, with the key path at fault."""


class ScanError(MimzooError):
    """A scan or label file that must not be used as it is."""


class DataError(MimzooError):
    """A data set that cannot be read, prepared or split."""


class WeightsError(MimzooError):
    """Weights that are missing, damaged, or do not fit the module."""


class ShapeError(MimzooError):
    """Components or sizes that do not fit together."""


class ExportError(MimzooError):
    """A deployable model that is damaged, or whose export does not match the original."""


def suggest(name: str, options: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest option, or the sorted options when none is near."""
    known = sorted(options)
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known)}" if known else "none is known"
