"""The report as one HTML file that needs no network."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files

from propulsion_tools.errors import require
from propulsion_tools.report.drawing import Figure
from propulsion_tools.report.figures import figures
from propulsion_tools.report.rerun_commands import commands
from propulsion_tools.report.summary import Summary
from propulsion_tools.report.tables import Table, TableCell, facts, tables, title


def page(summary: Summary, first: Sequence[Figure] = ()) -> str:
    """The whole file, plotly's script included.

    Args:
        summary: What to show.
        first: Figures that stand before the tables.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    script = require("plotly.offline", "report").get_plotlyjs()
    opening, others = _in_order(figures(summary), first)
    made = tables(summary)
    data = {
        figure.name: {"layout": figure.layout, "height": figure.height, "variants": figure.variants}
        for figure in (*opening, *others)
    }
    own = files("propulsion_tools.report")
    style = "".join(
        file.read_text(encoding="utf-8")
        for file in (files("propulsion_tools").joinpath("look.css"), own.joinpath("page.css"))
    )
    links = [(table.name, table.title) for table in made] + [("figures", "Figures"), ("runs", "Commands")]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
            f"<title>{html.escape(title(summary))}</title>",
            f"<style>{style}</style></head><body><main>",
            f"<h1>{html.escape(title(summary))}</h1>",
            *(f'<p class="faint">{html.escape(fact)}</p>' for fact in facts(summary)),
            "<nav>" + "".join(f'<a href="#{name}">{html.escape(text)}</a>' for name, text in links) + "</nav>",
            *_figures(opening),
            '<div class="filter"><input type="search" placeholder="Show rows that contain …" '
            'aria-label="Show rows that contain"><output></output></div>',
            *(_table(table) for table in made),
            '<h2 id="figures">Figures</h2>',
            *_figures(others),
            _runs(summary),
            "</main>",
            f'<script type="application/json" id="figures-data">{_json(data)}</script>',
            f"<script>{script}</script>",
            f"<script>{own.joinpath('page.js').read_text(encoding='utf-8')}</script>",
            "</body></html>",
        ]
    )


def _in_order(made: Sequence[Figure], first: Sequence[Figure]) -> tuple[list[Figure], list[Figure]]:
    """What the page opens with, wide: figures of its own or else the first that there is; and the others."""
    if first or not made:
        return list(first), list(made)
    return [replace(made[0], is_wide=True)], list(made[1:])


def _json(data: object) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(data).replace("<", "\\u003c")


def _table(table: Table) -> str:
    kind = ' class="text"' if table.is_text else ""
    headings = "".join(
        f'<th aria-sort="none"{kind}><button>{html.escape(name)}</button></th>' for name in table.headings
    )
    rows = "".join(
        f'<tr data-name="{html.escape(label)}"><th scope="row">{html.escape(label)}</th>'
        + "".join(_cell(cell, table.is_text) for cell in cells)
        + "</tr>"
        for label, cells in table.rows
    )
    foot = "".join(
        f'<tr><th scope="row">{html.escape(label)}</th>{"".join(_cell(cell, False) for cell in cells)}</tr>'
        for label, cells in table.foot
    )
    return (
        f'<h2 id="{table.name}-title">{html.escape(table.title)}</h2><p class="faint">{html.escape(table.caption)}</p>'
        f'<div class="scroll"><table id="{table.name}"><thead><tr><th aria-sort="none">'
        f"<button>{table.first}</button></th>{headings}</tr></thead><tbody>{rows}</tbody>"
        f"{f'<tfoot>{foot}</tfoot>' if foot else ''}</table></div>"
    )


def _cell(cell: TableCell, is_text: bool) -> str:
    text = html.escape(cell.text)
    if cell.mark:
        text = f"<b>{text}</b>" if cell.mark == 1 else f"<u>{text}</u>"
    if cell.link:
        text = f'<a href="#{cell.link}">{text}</a>'
    kinds = " ".join(filter(None, ("text" if is_text else "", cell.kind)))
    value = "" if is_text else f' data-value="{"" if cell.value is None else repr(cell.value)}"'
    below = f"<small>{html.escape(cell.below)}</small>" if cell.below else ""
    hint = f' title="{html.escape(cell.hint)}"' if cell.hint else ""
    return f'<td class="{kinds}"{value}{hint}>{text}{below}</td>'


def _figures(drawn: Sequence[Figure]) -> list[str]:
    return ['<div class="figures">', *map(_figure, drawn), "</div>"] if drawn else []


def _figure(figure: Figure) -> str:
    options = "".join(f"<option>{html.escape(name)}</option>" for name in figure.variants)
    select = f' <select aria-label="task">{options}</select>' if len(figure.variants) > 1 else ""
    shape = "wide" if figure.is_wide else "half"
    return (
        f'<figure class="{shape}"><h3>{html.escape(figure.title)}{select}</h3>'
        f'<div id="{figure.name}" style="min-height:{figure.height}px"></div>'
        f"<figcaption>{html.escape(figure.caption)}</figcaption></figure>"
    )


def _runs(summary: Summary) -> str:
    blocks = []
    for name, heading, runs in commands(summary):
        lines = "".join(
            f'<div><span class="faint">{html.escape(run)}</span><code>{html.escape(command)}</code>'
            "<button>copy</button></div>"
            for run, command in runs
        )
        blocks.append(
            f'<div class="run" id="{name}" data-name="{html.escape(heading)}">'
            f"<h3>{html.escape(heading)}</h3>{lines}</div>"
        )
    return '<h2 id="runs">Commands</h2><p class="faint">Every number above comes from these runs.</p>' + "".join(blocks)
