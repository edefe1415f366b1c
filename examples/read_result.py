"""Read the calls of a run: python read_result.py OUT/PREFIX.sequences.tsv"""

import csv
import sys

with open(sys.argv[1], encoding="utf-8", newline="") as file:
    rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))

print(f"{'sequence':<46} {'bases':>6}  {'verdict':<10} {'score':>5}  viral/scored/all windows")
for row in rows:
    score = f"{float(row['score']):.2f}" if row["score"] else "-"
    windows = f"{row['windows_viral']}/{row['windows_scored']}/{row['windows']}"
    print(f"{row['sequence_id'][:46]:<46} {row['length']:>6}  {row['verdict']:<10} {score:>5}  {windows}")
