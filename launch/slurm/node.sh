#!/bin/bash
# What job.sh starts once on every node: data to the local disk, the environment, then torchrun in place of this shell.

set -euo pipefail

refuse() {
    printf 'error: %s: %s\n' "$(hostname)" "$*" >&2
    exit 2
}

warn() {
    printf 'warning: %s: %s\n' "$(hostname)" "$*" >&2
}

staged=${SEGADAPT_LOCAL_DIR:-${SLURM_TMPDIR:-${TMPDIR:-/tmp}}}/segadapt-$SLURM_JOB_ID-${SLURMD_NODENAME:-$(hostname)}

# Unpacks the archives of SEGADAPT_ARCHIVE (separated by colons) and makes them the data root.
stage_data() {
    local archive archives started=$SECONDS
    IFS=: read -r -a archives <<<"$SEGADAPT_ARCHIVE"
    mkdir -p "$(dirname "$staged")" || refuse "$staged cannot be made; see SEGADAPT_LOCAL_DIR"
    # one of an earlier start of this job may be left; on a shared disk others can make folders, and links, too
    mkdir -m 700 "$staged" 2>/dev/null || [[ -d $staged && -O $staged && ! -L $staged ]] ||
        refuse "$staged cannot be made, or is somebody else's; see SEGADAPT_LOCAL_DIR"
    for archive in "${archives[@]}"; do
        [[ -r $archive ]] || refuse "SEGADAPT_ARCHIVE: $archive cannot be read"
        case $archive in
            *.zip) unzip -q -o "$archive" -d "$staged" ;;
            *) tar --extract --file "$archive" --directory "$staged" --no-same-owner ;;
        esac || refuse "$archive could not be unpacked into $staged"
    done
    echo "$(hostname): data in $staged after $((SECONDS - started)) s" >&2
    export SEGADAPT_DATA=$staged
}

# The file SEGADAPT_ENV is read, or the checkout's own .venv; in a container what the image brings will do.
activate_environment() {
    local file=${SEGADAPT_ENV:-}
    if [[ -z $file && -z ${SEGADAPT_CONTAINER:-} && -f $SEGADAPT_HOME/.venv/bin/activate ]]; then
        file=$SEGADAPT_HOME/.venv/bin/activate
    fi
    if [[ -n $file ]]; then
        [[ -r $file ]] || refuse "SEGADAPT_ENV: $file cannot be read"
        set +eu # other people's files
        # shellcheck disable=SC1090
        source "$file"
        set -eu
    fi
    if ! in_container && ! command -v python >/dev/null; then
        refuse "no python: make .venv (make install), or set SEGADAPT_ENV to a file that activates an environment"
    fi
}

in_container() {
    [[ -n ${SEGADAPT_CONTAINER:-} && ${SEGADAPT_CONTAINER_KIND:-} != pyxis ]]
}

# One process per GPU of this job on this node; without GPUs one process on its CPUs.
choose_processes() {
    local gpus=${SLURM_GPUS_ON_NODE:-0} cores=${SLURM_CPUS_ON_NODE:-1} usable threads
    processes=${SEGADAPT_PROCESSES:-$gpus}
    if ((gpus == 0)); then
        processes=${SEGADAPT_PROCESSES:-1}
        export CUDA_VISIBLE_DEVICES="" # GPUs of this node belong to others
    fi
    usable=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc)
    if ((usable < cores)); then
        warn "only $usable of this job's $cores cores can be used here: the processes are bound to them"
        cores=$usable
    fi
    if ((gpus > 0 && cores < 4 * processes)); then
        warn "$cores cores for $processes process(es): the GPUs may wait for pictures; see --cpus-per-task"
    fi
    threads=$((cores / processes))
    ((gpus == 0 || threads <= 4)) || threads=4 # loader processes need the others
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}
}

if [[ ${1-} == --remove-staged-data ]]; then
    rm -rf -- "$staged"
    exit 0
elif [[ ${1-} == --one-process ]]; then
    SEGADAPT_PROCESSES=1
    shift
fi

[[ -z ${SEGADAPT_ARCHIVE:-} ]] || stage_data
activate_environment
choose_processes
words=("$@")
[[ -z ${SEGADAPT_DATA:-} ]] || words=("${@//"{data}"/"$SEGADAPT_DATA"}")

prefix=()
if in_container; then
    runtime=$(command -v apptainer || command -v singularity) || refuse "SEGADAPT_CONTAINER needs apptainer or pyxis"
    prefix=("$runtime" exec --bind "$PWD" --bind "$SEGADAPT_HOME")
    [[ -z ${SEGADAPT_ARCHIVE:-} ]] || prefix+=(--bind "$staged")
    [[ -z ${SEGADAPT_MOUNTS:-} ]] || prefix+=(--bind "$SEGADAPT_MOUNTS")
    ((${SLURM_GPUS_ON_NODE:-0} == 0)) || prefix+=(--nv)
    prefix+=("$SEGADAPT_CONTAINER")
fi

launcher=(python -m torch.distributed.run) # not `torchrun`: its first line names python, without spaces
launcher+=(--nnodes "$SLURM_JOB_NUM_NODES" --node-rank "$SLURM_NODEID" --nproc-per-node "$processes")
launcher+=(--master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT")
launcher+=(--max-restarts "${SEGADAPT_MAX_RESTARTS:-0}")
if [[ -n ${SEGADAPT_RANK_LOGS:-} ]]; then
    logs=${SEGADAPT_RUN_DIR:-$PWD}/rank_logs/$SLURM_JOB_ID-start${SLURM_RESTART_COUNT:-0}/node$SLURM_NODEID
    mkdir -p "$logs"
    launcher+=(--log-dir "$logs" --tee 3)
fi
exec "${prefix[@]}" "${launcher[@]}" "${words[@]}"
