"""The registry: discovery, restriction, broken and conflicting plugins, look-up by name."""

import sys
from importlib.metadata import EntryPoint

import pytest

from mimzoo import registry as registry_module
from mimzoo.errors import PluginError, ShapeError, UnknownNameError
from mimzoo.registry import collect, registry
from mimzoo.specs import Args, EncoderSpec

GOOD = """
from mimzoo.specs import EncoderSpec, hookimpl

@hookimpl
def mimzoo_encoders():
    return [EncoderSpec(name="{name}", build="json:loads", summary="a test", source="this test")]
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A function that writes a module and returns an entry point to it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        sys.modules.pop(name, None)
        return EntryPoint(name=name, value=name, group="mimzoo")

    return write


def test_built_in_components_come_through_entry_points():
    found = registry()
    assert {"vit", "mim", "seg", "zoo"} <= set(found.plugins)
    assert not found.failures and not found.conflicts()
    assert found.find("encoder", "vit-tiny").name == "vit-tiny"
    assert [offer.distribution.split()[0] for offer in found.of_kind("encoder")].count("mimzoo") >= 3


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="no encoder is called 'vit-tinny'; did you mean 'vit-tiny'"):
        registry().find("encoder", "vit-tinny")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nonsense_that_is_not_there", "ModuleNotFoundError"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(3)", "exit"),
        (
            "from mimzoo.specs import hookimpl\n@hookimpl\ndef mimzoo_encoder():\n    return []",
            "mimzoo_encoder.*did you mean 'mimzoo_encoders'",
        ),
        ("from mimzoo.specs import hookimpl\n@hookimpl\ndef mimzoo_encoders(wrong):\n    return []", "wrong"),
        ("from mimzoo.specs import hookimpl\n@hookimpl\ndef mimzoo_encoders():\n    return 1 / 0", "ZeroDivisionError"),
        ("from mimzoo.specs import hookimpl\n@hookimpl\ndef mimzoo_encoders():\n    return ['vit']", "EncoderSpec"),
        ("from mimzoo.specs import hookimpl\n@hookimpl\ndef mimzoo_cards():\n    return ['/nowhere']", "README.md"),
    ],
)
def test_a_broken_plugin_is_reported_and_harms_no_other(plugin, source, reason):
    found = collect([plugin("bad_plugin", source), plugin("good_plugin", GOOD.format(name="fine"))])
    assert found.find("encoder", "fine").summary == "a test"
    (failure,) = found.failures
    assert failure.plugin == "bad_plugin"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(str(failure))


def test_two_plugins_with_one_name_are_both_named(plugin):
    points = [plugin("first_plugin", GOOD.format(name="same")), plugin("second_plugin", GOOD.format(name="same"))]
    found = collect(points)
    with pytest.raises(PluginError, match=r"'same' is offered by plugin 'first_plugin'.* and plugin 'second_plugin'"):
        found.find("encoder", "same")
    assert len(found.conflicts()) == 1


def test_plugins_can_be_restricted(monkeypatch):
    monkeypatch.setenv("MIMZOO_PLUGINS", "vit")
    registry_module.registry.cache_clear()
    try:
        assert set(registry().plugins) == {"vit"}
        monkeypatch.setenv("MIMZOO_PLUGINS", "vit,sge")
        registry_module.registry.cache_clear()
        with pytest.raises(UnknownNameError, match="'sge', not installed; did you mean 'seg'|'sge'"):
            registry()
    finally:
        registry_module.registry.cache_clear()


class Sizes(Args):
    width: int = 8


def spec(**changes):
    return EncoderSpec(**{"name": "x", "build": "json:loads", "args": Sizes, "summary": "s", "source": "s", **changes})


def test_arguments_are_validated_with_the_nearest_name():
    assert spec(defaults={"width": 16}).check({}).width == 16
    with pytest.raises(ShapeError, match="x: unknown argument 'widht'; did you mean 'width'"):
        spec().check({"widht": 3})
    with pytest.raises(ShapeError, match="argument 'width'.*got 'wide'"):
        spec().check({"width": "wide"})


def test_a_target_is_loaded_lazily_and_a_missing_one_named():
    assert spec(build="nonsense_that_is_not_there:Thing").name == "x"
    with pytest.raises(PluginError, match="cannot load 'nonsense_that_is_not_there:Thing'"):
        spec(build="nonsense_that_is_not_there:Thing").load()
