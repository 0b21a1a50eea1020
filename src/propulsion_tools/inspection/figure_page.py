"""Panels as one HTML file that needs no network, side by side where there is room and below each other on a phone."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from propulsion_tools.errors import require

FONT = "system-ui, Segoe UI, Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class PagePanel:
    """One figure of plotly.

    Attributes:
        title: Above it.
        subtitle: Beside the title, smaller.
        variants: Traces by the word of the button that shows them; one where no button changes it.
        layout: Of plotly, its margin among it; width and height are those of its place.
        height: In pixels; None: as high as it is wide.
        is_wide: Whether it takes the whole width.
    """

    title: str
    subtitle: str
    variants: dict[str, list[Any]]
    layout: dict[str, Any]
    height: int | None = None
    is_wide: bool = False


@dataclass(frozen=True)
class Section:
    """Panels under a heading.

    Attributes:
        panels: In their order.
        title: The heading; nothing: there is none.
        words: Below it.
    """

    panels: Sequence[PagePanel]
    title: str = ""
    words: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        name: Of its tab.
        title: Above all.
        words: Sentences below it, a paragraph each.
        sections: The panels.
        narrowest: What a panel needs at least, in pixels: as many stand side by side as have room.
        buttons: Which variants can be chosen.
    """

    name: str
    title: str
    words: Sequence[str]
    sections: Sequence[Section]
    narrowest: int
    buttons: Sequence[str] = field(default=())

    def content(self) -> bytes:
        """The file, plotly's script included.

        Raises:
            MissingExtraError: plotly is not installed.
        """
        script = require("plotly.offline", "report").get_plotlyjs()
        own = files("propulsion_tools.inspection")
        panels = [panel for section in self.sections for panel in section.panels]
        data = [{"variants": p.variants, "layout": p.layout, "height": p.height} for p in panels]
        columns = f"repeat(auto-fit, minmax(min(100%, {self.narrowest}px), 1fr))"
        parts = [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(self.name)}</title>",
            f"<style>{own.joinpath('figure_page.css').read_text(encoding='utf-8')}",
            f".panels {{ grid-template-columns: {columns}; }}</style></head><body><main>",
            f"<h1>{html.escape(self.title)}</h1>",
            *(f"<p>{html.escape(sentence)}</p>" for sentence in self.words),
            *(f"<button>{html.escape(word)}</button>" for word in self.buttons),
            *self._sections(),
            f'</main><script type="application/json" id="panels-data">{_json(data)}</script>',
            f"<script>{script}</script>",
            f"<script>{own.joinpath('figure_page.js').read_text(encoding='utf-8')}</script></body></html>",
        ]
        return "\n".join(parts).encode("utf-8")

    def _sections(self) -> list[str]:
        parts, number = [], 0
        for section in self.sections:
            parts += [f"<h2>{html.escape(section.title)}</h2>"] if section.title else []
            parts += [f"<p>{html.escape(section.words)}</p>"] if section.words else []
            parts.append('<div class="panels">')
            for panel in section.panels:
                small = f"<small>{html.escape(panel.subtitle)}</small>" if panel.subtitle else ""
                shape = ' class="wide"' if panel.is_wide else ""
                parts.append(
                    f'<div{shape}><h3>{html.escape(panel.title)}{small}</h3><div id="panel-{number}"></div></div>'
                )
                number += 1
            parts.append("</div>")
        return parts


def colour_scale(name: str) -> list[list[Any]]:
    """A colour scale of plotly's by its name, which the page's script does not know.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    return [list(stop) for stop in require("plotly.colors", "report").get_colorscale(name)]


def _json(data: object) -> str:
    """JSON, arrays packed as plotly reads them, that cannot end the element it stands in."""
    text: str = require("plotly.io.json", "report").to_json_plotly(data)
    return text.replace("<", "\\u003c")
