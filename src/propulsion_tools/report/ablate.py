"""`propulsion ablate`: from one of the paper's ablations to its report."""

from __future__ import annotations

from propulsion_tools.compare.ablations import ablation_grid, get_ablation, row_label
from propulsion_tools.compare.command import compare, require_a_finished_run
from propulsion_tools.records.options import AblateOptions
from propulsion_tools.report.ablation_figure import ablation_figure
from propulsion_tools.report.drawing import Figure
from propulsion_tools.report.summary import Summary
from propulsion_tools.report.write import write_report


def ablate(name: str, options: AblateOptions) -> str:
    """Run an ablation and write its report, its own figure first.

    Args:
        name: One of `ABLATIONS`.
        options: On what, and how.

    Returns:
        The path of report.html.
    """
    ablation, grid = get_ablation(name), ablation_grid(name, options)
    results = compare(grid, options, costs_matter=False)
    values = {row_label(ablation, value): value for value in ablation.rows}

    def first(summary: Summary) -> list[Figure]:
        return [ablation_figure(summary, ablation.title, ablation.axis, values)]

    report = write_report(grid, results, first)
    require_a_finished_run(results, report)
    return str(report)
