"""One HTML file that shows the results of `virnucpro predict`, and one over several samples: read without a network."""

from virnucpro.report.page import write_report
from virnucpro.report.samples import summarize

__all__ = ["summarize", "write_report"]
