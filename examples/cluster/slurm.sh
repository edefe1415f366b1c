#!/usr/bin/env bash
# virnucpro predict on a SLURM cluster: a task of an array, with one GPU, for each piece of the input; then the merge.
#
#     bash slurm.sh contigs.fa out 20 [options of `virnucpro predict`, such as --model 500 --dtype bf16]
#
# OUT.parts gets the pieces and their results, OUT what one run over all of the input would give, to the byte. A task that
# is requeued, or killed by its time limit and submitted again, goes on where it was. Set the partition, account and
# limits of your cluster below; all tasks need GPUs of one kind, or the merge refuses them.
set -euo pipefail

gpu=(--gpus-per-task=1 --ntasks=1 --cpus-per-task=8 --mem=32G --time=12:00:00)
cpu=(--ntasks=1 --cpus-per-task=4 --mem=16G --time=2:00:00)

# In a job: `slurm.sh --task PARTS [options]` and `slurm.sh --merge PARTS OUT`.
case "$1" in
--task)
    parts=$2
    shift 2
    piece=$(printf '%s/%04d' "$parts" "$SLURM_ARRAY_TASK_ID")
    # 6: done, but some sequences failed, which failed.tsv lists.
    virnucpro predict "$piece.fa" -o "$piece" "$@" || [ $? -eq 6 ]
    exit
    ;;
--merge)
    virnucpro merge "$2" -o "$3" || [ $? -eq 6 ]
    exit
    ;;
esac

input=$1 out=$2 pieces=$3
shift 3
script=$(readlink -f "$0")
virnucpro split "$input" -n "$pieces" -o "$out.parts" || [ $? -eq 6 ]
count=$(find "$out.parts" -name '[0-9]*.fa' | wc -l)
array=$(sbatch --parsable --job-name=virnucpro --array=1-"$count" --requeue --open-mode=append "${gpu[@]}" \
    "$script" --task "$out.parts" "$@")
sbatch --job-name=virnucpro-merge --dependency=afterok:"$array" "${cpu[@]}" "$script" --merge "$out.parts" "$out"
