"""Runs `virnucpro predict`; the table of sequences names folder and prefix of all results."""

from pathlib import Path

from snakemake.shell import shell

SUFFIX = ".sequences.tsv"

table = Path(snakemake.output.sequences)  # noqa: F821
if not table.name.endswith(SUFFIX):
    raise ValueError(f"output sequences={table}: must end with {SUFFIX}")
folder, prefix = table.parent, table.name[: -len(SUFFIX)]
report = "--report" if snakemake.output.get("report") else ""  # noqa: F821
extra = snakemake.params.get("extra", "")  # noqa: F821
log = snakemake.log_fmt_shell(stdout=True, stderr=True)  # noqa: F821

# What an interrupted run has finished is kept. 6: done, but some sequences failed, which failed.tsv lists.
shell(
    "(virnucpro predict {snakemake.input:q} -o {folder:q} -p {prefix:q} --force {report}"
    " --threads {snakemake.threads} {extra} || [ $? -eq 6 ]) {log}"
)
