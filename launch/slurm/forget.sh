# shellcheck shell=bash
# For job.sh and pipeline.sh, which submit jobs from inside a job.

# Takes the variables of the job around this shell away, SLURM_RESTART_COUNT above all: the next job is not to have
# them. Outside a job they are the user's.
forget_this_job() {
    local name
    [[ -n ${SLURM_JOB_ID:-} ]] || return 0
    for name in $(compgen -e SLURM_); do
        case $name in
            SLURM_CONF | SLURM_CLUSTERS | SLURM_JWT) ;; # where Slurm is, and who asks
            *) unset "$name" ;;
        esac
    done
}
