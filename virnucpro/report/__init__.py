"""One HTML file that shows the results of `virnucpro predict`: read without a network, the same bytes each time."""

from virnucpro.report.page import write_report

__all__ = ["write_report"]
