"""What a saved adapter has learned: `inspect_adapter` gives it as text, and draws it if asked."""

from __future__ import annotations

from pathlib import Path

from propulsion_tools.errors import OptionError, near_misses, require
from propulsion_tools.inspection.figure_files import write_bytes
from propulsion_tools.inspection.saved_adapter import read_adapter
from propulsion_tools.records import written

# The package that draws each kind of figure, and the extra that installs it.
IMAGES = {".png": ("matplotlib", "train"), ".svg": ("matplotlib", "train")}
FIGURES = {".html": ("plotly", "report"), **IMAGES}


def inspect_adapter(adapter_dir: Path, figure: Path | None, distribution: Path | None = None) -> str:
    """Describe a saved adapter, from its own files alone.

    Args:
        adapter_dir: What `save_pretrained` wrote.
        figure: Where to draw the gains as a heat map, .html, .png or .svg; None for nowhere.
        distribution: Where to draw how z spreads before and after training, .png or .svg; None for nowhere.

    Returns:
        Tables, to be printed; with colours if standard output is a terminal.

    Raises:
        AdapterFileError: There is no Propulsion adapter, or it is damaged, incomplete or not finite.
        NotFiniteError: A gain is not finite.
        OptionError: The figure cannot be written there.
        MissingExtraError: The package that draws such figures is not installed.
    """
    require("rich", "train")
    for file, kinds in ((figure, FIGURES), (distribution, IMAGES)):
        if file is not None:
            _check_figure(file, kinds)
    adapter = read_adapter(adapter_dir)
    from propulsion_tools.inspection.gain_tables import describe

    lines = [describe(adapter)]
    if figure is not None:
        lines.append(f"Heat map {written(figure)}")
        if figure.suffix.lower() == ".html":
            from propulsion_tools.inspection.heatmap_html import heatmap_page

            write_bytes(figure, heatmap_page(adapter))
        else:
            from propulsion_tools.inspection.heatmap_image import draw_heatmap

            write_bytes(figure, draw_heatmap(adapter, _kind(figure)))
    if distribution is not None:
        from propulsion_tools.inspection.distribution import draw_distribution

        lines.append(f"Distribution {written(distribution)}")
        write_bytes(distribution, draw_distribution(adapter, _kind(distribution)))
    return "\n".join(lines)


def _kind(figure: Path) -> str:
    return figure.suffix.lower().removeprefix(".")


def _check_figure(figure: Path, kinds: dict[str, tuple[str, str]]) -> None:
    suffix = figure.suffix.lower()
    if suffix not in kinds:
        hint = near_misses(suffix, kinds)
        raise OptionError(f"The figure {str(figure)!r} must end in {', '.join(kinds)}.{hint}")
    if figure.is_dir():
        raise OptionError(f"The figure {str(figure)!r} is a folder: give the name of a file.")
    if not figure.parent.is_dir():
        raise OptionError(f"There is no folder {str(figure.parent)!r} to write the figure to.")
    require(*kinds[suffix])
