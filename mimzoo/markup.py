"""HTML pages that need nothing but themselves: text is escaped unless it is markup, pictures are part of the page."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

VOID = {"img", "link", "meta"}
# The page may show what it holds, and can reach nothing else, whatever a name in it contains.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = Path(__file__).with_name("markup.css")


class Markup(str):
    """A piece of HTML; all other text is escaped when it becomes part of one."""

    __slots__ = ()


def element(name: str, /, *content: str, **attributes: str | int) -> Markup:
    """Return an element with its content; `class_` and `http_equiv` stand for `class` and `http-equiv`."""
    named = {key.rstrip("_").replace("_", "-"): escape(str(value)) for key, value in attributes.items()}
    opening = " ".join([name, *(f'{key}="{value}"' for key, value in named.items())])
    return Markup(f"<{opening}>" if name in VOID else f"<{opening}>{joined(content)}</{name}>")


def joined(content: Iterable[str]) -> Markup:
    """Return pieces as one; those that are no markup are escaped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in content))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], class_: str) -> Markup:
    """Return a table in a box that scrolls where the screen is narrow; the first cell of a row is its heading."""
    header = element("thead", element("tr", *(element("th", name, scope="col") for name in head))) if head else ""
    lines = [
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest))
        for first, *rest in rows
    ]
    return element("div", element("table", header, element("tbody", *lines), class_=class_), class_="wide")


def picture(path: Path, words: str) -> Markup:
    """Return a PNG file as part of the page; `words` say what it shows where it cannot be seen."""
    content = path.read_bytes()
    # A PNG begins with its signature and the header of the first chunk; then come width and height.
    width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))
    source = f"data:image/png;base64,{b64encode(content).decode()}"
    return element("figure", element("img", src=source, alt=words, width=width, height=height))


def section(title: str, *content: str) -> Markup:
    """Return a part of a page under its heading, nothing where it has no content."""
    return element("section", element("h2", title), *content) if any(content) else Markup()


def page(title: str, *content: str) -> str:
    """Return a whole page in light and dark, for screens of any width and for print."""
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", title),
        element("style", Markup(STYLE.read_text(encoding="utf-8"))),
    ]
    body = element("body", element("main", *content))
    return f"<!doctype html>\n{element('html', element('head', *head), body, lang='en')}\n"
