"""A drawing of matplotlib, made part of a page: its colours, its type, and no name twice."""

from __future__ import annotations

import re
from typing import Final
from xml.etree import ElementTree

from markupsafe import Markup

__all__ = ["inlined"]

_SVG: Final = "http://www.w3.org/2000/svg"
_LINK: Final = "{http://www.w3.org/1999/xlink}href"
# What the figures are drawn with → what the page's style calls it, for light and for dark.
_COLOURS: Final = {
    "#0072b2": "var(--line-1)",
    "#d55e00": "var(--line-2)",
    "#009e73": "var(--line-3)",
    "#cc79a7": "var(--line-4)",
    "#56b4e9": "var(--line-5)",
    "#e69f00": "var(--line-6)",
    "#000000": "currentColor",
    "#555555": "var(--muted)",
    "#dddddd": "var(--grid)",
}
_COLOUR: Final = re.compile(r"#[0-9a-f]{6}")
_FAMILY: Final = re.compile(r"font-family:[^;]*;?\s*")


def inlined(svg: str, label: str, prefix: str) -> Markup:
    """The drawing as an element of a page.

    Args:
        svg: as matplotlib writes it.
        label: what one sees in it, for those who do not see it.
        prefix: put before the names in it, of which a page must not have one twice.
    """
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            # What would style the whole page, and what nobody reads.
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    used = {
        name
        for element in root.iter()
        for key, value in element.attrib.items()
        if key != "id"
        for name in re.findall(r"^#(.+)$|url\(#([^)]+)\)", value)
    }
    names = {first or second for first, second in used}
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        element.attrib = dict(_attributes(element.attrib, names, prefix))
        if element.tag not in ("text", "tspan"):
            element.text = None
        element.tail = None
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib.update({"role": "img", "aria-label": label})
    # Ours, parsed and written again: nothing in it is markup that was not drawn.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _attributes(attributes: dict[str, str], names: set[str], prefix: str) -> list[tuple[str, str]]:
    found = []
    for key, value in attributes.items():
        if key == "id":
            if value in names:
                found.append((key, prefix + value))
        elif key == _LINK:
            found.append(("href", f"#{prefix}{value.removeprefix('#')}"))
        elif key == "clip-path":
            found.append((key, value.replace("url(#", f"url(#{prefix}")))
        elif key == "style":
            style = _FAMILY.sub("", value)
            found.append((key, _COLOUR.sub(lambda c: _COLOURS.get(c[0], c[0]), style)))
        else:
            found.append((key, " ".join(value.split())))
    return found
