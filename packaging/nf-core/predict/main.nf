process VIRNUCPRO_PREDICT {
    tag "$meta.id"
    label 'process_medium'
    label 'process_gpu'

    conda "${moduleDir}/environment.yml"
    container "virnucpro:0.2.0"

    input:
    tuple val(meta), path(sequences)

    output:
    tuple val(meta), path("out/${prefix}.sequences.tsv")    , emit: sequences
    tuple val(meta), path("out/${prefix}.windows.tsv.gz")   , emit: windows
    tuple val(meta), path("out/${prefix}.regions.bed")      , emit: bed
    tuple val(meta), path("out/${prefix}.regions.gff3")     , emit: gff
    tuple val(meta), path("out/${prefix}.virus.fna")        , emit: fasta
    tuple val(meta), path("out/${prefix}.virus_summary.tsv"), emit: summary
    tuple val(meta), path("out/${prefix}.failed.tsv")       , emit: failed
    tuple val(meta), path("out/${prefix}.run.json")         , emit: json
    tuple val(meta), path("out/${prefix}.report.html")      , emit: report
    path "versions.yml"                                     , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    prefix = task.ext.prefix ?: "${meta.id}"
    // 6: done, but some sequences failed, which failed.tsv lists
    """
    virnucpro predict $sequences -o out -p $prefix --report --threads $task.cpus $args || [ \$? -eq 6 ]

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        virnucpro: \$(virnucpro --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir out
    touch out/${prefix}.{sequences.tsv,regions.bed,regions.gff3,virus.fna,virus_summary.tsv,failed.tsv,run.json,report.html}
    echo | gzip > out/${prefix}.windows.tsv.gz

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        virnucpro: \$(virnucpro --version | sed 's/.* //')
    END_VERSIONS
    """
}
