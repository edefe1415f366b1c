"""A MultiQC module: the results of each run of `virnucpro predict`, from its record. Only MultiQC imports this."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from multiqc import config
from multiqc.base_module import BaseMultiqcModule, ModuleNoSamplesFound
from multiqc.plots import bargraph

from virnucpro.calls.tables import SAMPLES
from virnucpro.errors import InputError
from virnucpro.report.samples import RECORD, Sample

logger = logging.getLogger("multiqc.modules.virnucpro")

#: Verdicts, with the colours of the report.
_VERDICTS = {
    "virus": {"name": "virus", "color": "#d55e00"},
    "mixed": {"name": "mixed: viral in part", "color": "#e69f00"},
    "other": {"name": "other", "color": "#0072b2"},
    "not_scored": {"name": "not scored", "color": "#9aa3ab"},
}
#: Columns of the general statistics, with their settings in MultiQC.
_COLUMNS: dict[str, dict[str, Any]] = {
    "sequences": {"title": "Sequences", "format": "{:,.0f}", "scale": "Blues", "hidden": True},
    "virus": {"title": "Virus", "format": "{:,.0f}", "scale": "Oranges"},
    "mixed": {"title": "Mixed", "format": "{:,.0f}", "scale": "Oranges"},
    "expected_false": {"title": "Exp. false", "format": "{:,.1f}", "scale": "Reds"},
    "failed": {"title": "Failed", "format": "{:,.0f}", "scale": "Reds", "hidden": True},
}


def find_records() -> None:
    """Tell MultiQC which files are records of `predict`: its hook `config_loaded`."""
    pattern = {"fn": f"*{RECORD}", "contents": '"command": "predict"', "num_lines": 20}
    config.update_dict(config.sp, {"virnucpro": pattern})


class MultiqcModule(BaseMultiqcModule):
    """Verdicts of each sample as bars, and columns of the general statistics."""

    def __init__(self) -> None:
        super().__init__(
            name="virnucpro",
            anchor="virnucpro",
            href="https://doi.org/10.1093/bib/bbaf224",
            info="finds viral sequences with language models of DNA and protein.",
            doi=["10.1093/bib/bbaf224"],
        )
        found = self.ignore_samples(self._samples())
        if not found:
            raise ModuleNoSamplesFound
        logger.info("Found %d reports", len(found))
        self.general_stats_addcols(
            found, {name: {"description": SAMPLES[name], "min": 0, **how} for name, how in _COLUMNS.items()}
        )
        self.add_section(
            name="Verdicts",
            anchor="virnucpro-verdicts",
            description="Sequences by their calls: viral as a whole or in part, not viral, or without a score.",
            plot=bargraph.plot(
                found,
                _VERDICTS,
                {"id": "virnucpro-verdicts-plot", "title": "virnucpro: verdicts", "ylab": "sequences"},
            ),
        )
        self.write_data_file(found, "multiqc_virnucpro")

    def _samples(self) -> dict[str, dict[str, Any]]:
        """Counts of each sample whose run is complete."""
        found: dict[str, dict[str, Any]] = {}
        for file in self.find_log_files("virnucpro", filecontents=False):
            name = file["fn"].removesuffix(RECORD)
            try:
                sample = Sample.of(name, Path(file["root"]), "")
            except InputError as error:
                logger.warning("%s", error)
                continue
            shown = self.clean_s_name(name, file)
            found[shown] = {column: value for column, value in sample.counts.items() if value is not None}
            self.add_data_source(file, shown)
            self.add_software_version(sample.version, shown)
        return found
