"""Who offers what: plugins found through the entry-point group `mimzoo`, their components looked up by name."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pluggy

from mimzoo import specs
from mimzoo.errors import PluginError, UnknownNameError, suggest
from mimzoo.specs import Spec

GROUP = "mimzoo"
KINDS: dict[str, type[Spec]] = {
    "encoder": specs.EncoderSpec,
    "masking": specs.MaskingSpec,
    "decoder": specs.DecoderSpec,
    "objective": specs.ObjectiveSpec,
    "head": specs.HeadSpec,
    "importer": specs.ImporterSpec,
}


@dataclass(frozen=True)
class Offer:
    """One thing that one plugin offers: a component's spec, or a card's folder."""

    kind: str
    name: str
    value: Any
    plugin: str
    distribution: str


@dataclass(frozen=True)
class Failure:
    """A plugin, or one of its hooks, that could not be used, and why."""

    plugin: str
    distribution: str
    reason: str

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} of {self.distribution} is not usable: {self.reason}"


@dataclass(frozen=True)
class Registry:
    """Everything that the installed plugins offer, and everything that failed."""

    plugins: dict[str, str]
    offers: tuple[Offer, ...]
    failures: tuple[Failure, ...]

    def of_kind(self, kind: str) -> list[Offer]:
        """Return the offers of a kind ("encoder", "masking", ... "card"), sorted by name."""
        return sorted((offer for offer in self.offers if offer.kind == kind), key=lambda offer: offer.name)

    def conflicts(self) -> list[str]:
        """Return one sentence for each name that two plugins offer."""
        pairs = {(offer.kind, offer.name) for offer in self.offers}
        found = ((kind, name, self._named(kind, name)) for kind, name in sorted(pairs))
        return [_conflict(kind, name, offers) for kind, name, offers in found if len(offers) > 1]

    def find(self, kind: str, name: str) -> Any:
        """Return what is registered under `name`: a spec, or a card's folder.

        Raises UnknownNameError with the nearest name, PluginError when two plugins offer the name.
        """
        offers = self._named(kind, name)
        if len(offers) > 1:
            raise PluginError(_conflict(kind, name, offers))
        if not offers:
            known = [offer.name for offer in self.of_kind(kind)]
            raise UnknownNameError(f"no {kind} is called {name!r}; {suggest(name, known)}{self._hint()}")
        return offers[0].value

    def _named(self, kind: str, name: str) -> list[Offer]:
        return [offer for offer in self.offers if (offer.kind, offer.name) == (kind, name)]

    def _hint(self) -> str:
        return " (some plugins failed: see `mimzoo plugins`)" if self.failures else ""


def _conflict(kind: str, name: str, offers: list[Offer]) -> str:
    owners = " and ".join(f"plugin {offer.plugin!r} of {offer.distribution}" for offer in offers)
    return f"{kind} {name!r} is offered by {owners}; uninstall one, or name the plugins to use in MIMZOO_PLUGINS"


@lru_cache(maxsize=1)
def registry() -> Registry:
    """Return the registry of the installed plugins, read once per process.

    `MIMZOO_PLUGINS` (entry-point names, comma separated) restricts which plugins load.
    """
    return collect(_chosen(list(entry_points(group=GROUP))))


def find(kind: str, name: str) -> Any:
    """Return what the installed plugins register under `name`; see `Registry.find`."""
    return registry().find(kind, name)


def _chosen(found: list[EntryPoint]) -> list[EntryPoint]:
    listed = os.environ.get("MIMZOO_PLUGINS")
    if listed is None:
        return found
    wanted = {name.strip() for name in listed.split(",") if name.strip()}
    names = {point.name for point in found}
    for name in sorted(wanted - names):
        raise UnknownNameError(f"MIMZOO_PLUGINS names the plugin {name!r}, not installed; {suggest(name, names)}")
    return [point for point in found if point.name in wanted]


def collect(points: list[EntryPoint]) -> Registry:
    """Return the registry of these entry points; what fails is recorded with its distribution and harms no other."""
    manager = pluggy.PluginManager("mimzoo")
    manager.add_hookspecs(specs)
    owners: dict[str, str] = {}
    failures: list[Failure] = []
    for point in points:
        key = _unique(point, owners)
        reason = _register(manager, key, point)
        if reason is None:
            owners[key] = _distribution(point)
        else:
            failures.append(Failure(point.name, _distribution(point), reason))
    offers = tuple(_gather(manager, owners, failures))
    return Registry(owners, offers, tuple(failures))


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


def _unique(point: EntryPoint, taken: dict[str, str]) -> str:
    # Two distributions may name their plugin alike; both must stay visible.
    return point.name if point.name not in taken else f"{point.name} ({_distribution(point)})"


def _register(manager: pluggy.PluginManager, key: str, point: EntryPoint) -> str | None:
    """Return None once the plugin is registered, or the reason why it cannot be."""
    # A plugin's import can raise anything, and must not take the others down with it.
    try:
        plugin = point.load()
        manager.register(plugin, name=key)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    except SystemExit as error:
        return f"it calls exit({error.code}) when imported"
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        manager.unregister(name=key)
        return f"{error}; {suggest(str(error).split(chr(39))[1], _hook_names())}"
    return None


def _hook_names() -> list[str]:
    return [name for name in vars(specs) if name.startswith("mimzoo_")]


def _gather(manager: pluggy.PluginManager, owners: dict[str, str], failures: list[Failure]) -> Iterator[Offer]:
    readers: dict[str, Callable[[str, Any], str]] = dict.fromkeys(KINDS, _spec_name)
    readers["card"] = _card_name
    for kind, name_of in readers.items():
        for hook in getattr(manager.hook, f"mimzoo_{kind}s").get_hookimpls():
            plugin = hook.plugin_name
            try:
                for value in hook.function():
                    yield Offer(kind, name_of(kind, value), value, plugin, owners[plugin])
            except Exception as error:
                reason = f"mimzoo_{kind}s() raises {type(error).__name__}: {error}"
                failures.append(Failure(plugin, owners[plugin], reason))


def _spec_name(kind: str, value: Any) -> str:
    if not isinstance(value, KINDS[kind]):
        raise TypeError(f"it offers {value!r} where a {KINDS[kind].__name__} is expected")
    return value.name


def _card_name(kind: str, value: Any) -> str:
    folder = Path(value)
    if not (folder / "README.md").is_file():
        raise FileNotFoundError(f"the {kind} folder {folder} holds no README.md")
    return folder.name
