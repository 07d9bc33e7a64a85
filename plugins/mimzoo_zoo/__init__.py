"""The model cards that come with mimzoo."""

from pathlib import Path

from mimzoo.specs import hookimpl


def _cards_root() -> Path:
    """Return `model_cards/`: inside this package in a wheel, at the root of a checkout."""
    packed = Path(__file__).parent / "model_cards"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "model_cards"


@hookimpl
def mimzoo_cards() -> list[str]:
    """Return the folders of the shipped cards."""
    return sorted(str(path.parent) for path in _cards_root().glob("*/README.md"))
