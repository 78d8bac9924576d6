"""HTML as nested calls: `tag("p", "1 < 2")` → `<p>1 &lt; 2</p>`. Text is escaped, `Html` is not."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

from PIL import Image

_VOID = ("img", "meta")


class Html(str):
    """Markup, to be taken as it is."""


def tag(name: str, /, *content: str, **attributes: str | bool | None) -> Html:
    """An element; `class_` stands for class, and an attribute that is None or False is left out."""
    given = {key.rstrip("_"): value for key, value in attributes.items() if value not in (None, False)}
    opening = name + "".join(f' {key}="{html.escape(str(value))}"' for key, value in given.items())
    return Html(f"<{opening}>") if name in _VOID else Html(f"<{opening}>{join(content)}</{name}>")


def join(content: Iterable[str]) -> Html:
    """Markup one after the other, text escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in content))


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str | None = None) -> Html:
    """The first cell of each row names it."""
    head = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    body = (tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows)
    title = [tag("caption", caption)] if caption else []
    return tag("div", tag("table", *title, tag("thead", head), tag("tbody", *body)), class_="wide")


def image(picture: Image.Image | str, alt: str, **attributes: str) -> Html:
    """A picture within the page: SVG text, or a PIL image, photographs (class "photo") as JPEG, others as PNG."""
    if isinstance(picture, str):
        kind, data = "svg+xml", picture.encode()
    else:
        kind = "jpeg" if attributes.get("class_") == "photo" else "png"
        file = io.BytesIO()
        picture.save(file, format=kind, **({"quality": 82} if kind == "jpeg" else {"optimize": True}))
        data = file.getvalue()
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return tag("img", src=source, alt=alt, **attributes)
