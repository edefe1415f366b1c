// virnucpro predict by Nextflow: split, one task a piece, merge.
//
//     nextflow run main.nf --input contigs.fa --out out --pieces 20 --options '--model 500'
//
// Tasks that are retried begin anew, since each has a folder of its own; smaller pieces lose less.
nextflow.enable.dsl = 2

params.out = 'out'
params.pieces = 20
params.options = ''

// 6: done, but some sequences failed, which failed.tsv lists.
def fine = '|| [ $? -eq 6 ]'

process SPLIT {
    input:
    path input

    output:
    path 'parts/*.fa', emit: pieces
    path 'parts/split.json', emit: plan

    script:
    "virnucpro split ${input} -n ${params.pieces} -o parts ${fine}"
}

process PREDICT {
    accelerator 1
    tag "${piece.baseName}"

    input:
    path piece

    output:
    path "${piece.baseName}"

    script:
    "virnucpro predict ${piece} -o ${piece.baseName} ${params.options} ${fine}"
}

process MERGE {
    publishDir "${file(params.out).parent ?: '.'}", mode: 'copy'

    input:
    path 'parts/*'
    path 'parts/*'
    path 'parts/*'

    output:
    path "${file(params.out).name}"

    script:
    "virnucpro merge parts -o ${file(params.out).name} ${fine}"
}

workflow {
    SPLIT(file(params.input))
    PREDICT(SPLIT.out.pieces.flatten())
    MERGE(SPLIT.out.plan, SPLIT.out.pieces.collect(), PREDICT.out.collect())
}
