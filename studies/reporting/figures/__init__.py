"""The figures of a comparison and of a search, as PNG files."""

from studies.reporting.figures.comparison import draw_comparison, draw_differences
from studies.reporting.figures.search import draw_search

__all__ = ["draw_comparison", "draw_differences", "draw_search"]
