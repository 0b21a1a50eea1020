"""A grid's results as tables, figures and one page."""
