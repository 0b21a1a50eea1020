"""The colours of figures of an adapter, of a run's curves and of the theory."""

INK, FAINT, EDGE, GRID, BAR = "#222222", "#6b6b6b", "#bbbbbb", "#d9d9d9", "#a3a3a3"
"""Of text, of what explains it, of frames, of grid lines, and of bars beside a heat map."""
SERIES = ("#2f6db3", "#c2603b", "#3f8f5f", "#8a5fb0", "#b38f2f", "#5f7d8a", "#b04f7d", "#555555")
"""Of lines, in their order."""
DIVERGING, FROM_ZERO = "RdBu_r", "Magma_r"
"""Colour scales by plotly's name. Blue below the middle and red above: told apart by every kind of colour vision."""
