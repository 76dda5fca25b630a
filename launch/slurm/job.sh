# shellcheck shell=bash
# What train.sbatch does, as functions: prepare the words of the command, run one torchrun per node, pass a stop
# on to it, and decide what comes next by the marks in the run folder. Variables of the user: docs/slurm.md.

set -uo pipefail
shopt -s extglob

# shellcheck source=launch/slurm/words.sh
source "$SEGADAPT_HOME/launch/slurm/words.sh"
# shellcheck source=launch/slurm/ending.sh
source "$SEGADAPT_HOME/launch/slurm/ending.sh"
# shellcheck source=launch/slurm/forget.sh
source "$SEGADAPT_HOME/launch/slurm/forget.sh"

# Runs a script of this project with its arguments. Ends the batch script.
run_job() {
    submitted=("$@")
    words=("$@")
    stopped_by="" told="" pid="" signals=0 one_process=""
    name_job
    trap 'pass_stop_on USR1' USR1
    trap 'pass_stop_on TERM' TERM
    count_restarts
    check_words
    fill_in_seed
    check_predecessor
    find_run_folder
    done_before=$(mark DONE)
    preempted_before=$(mark PREEMPTED)
    waiting_before=$(mark WAITING_FOR_LABELS)
    progress_before=$(progress)
    preempt_time_before=$(job_field PreemptTime)
    prepare_launch
    run_step
    notice_preemption
    remove_staged_data
    end_job
}

# Sets `job`: this job, or this task of an array, one of which has the id of the whole array as its SLURM_JOB_ID. A job
# that was submitted inside an array's task inherits that array's variables; Slurm's record says whose they are.
name_job() {
    local record
    if [[ -n ${SLURM_ARRAY_JOB_ID:-} ]]; then
        record=$(scontrol --oneliner show job "$SLURM_JOB_ID" 2>/dev/null)
        [[ -z $record || $record == *" ArrayJobId=$SLURM_ARRAY_JOB_ID "* ]] || unset "${!SLURM_ARRAY_@}"
    fi
    job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-}}
    job=${job:-$SLURM_JOB_ID}
}

# Likewise SLURM_RESTART_COUNT is another job's in a job that was submitted inside a requeued one.
count_restarts() {
    local restarts
    restarts=$(job_field Restarts)
    [[ $restarts != +([0-9]) ]] || export SLURM_RESTART_COUNT=$restarts
}

say() {
    printf '%s job %s: %s\n' "$(date '+%F %T')" "$job" "$*" >&2
}

refuse() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# A field of `scontrol show job` about this job.
job_field() {
    scontrol --oneliner show job "$job" 2>/dev/null | sed -n "s/.* $1=\([^ ]*\).*/\1/p"
}

# --- the step ---

prepare_launch() {
    MASTER_ADDR=${SEGADAPT_HEAD:-$(head_address)}
    [[ -n $MASTER_ADDR ]] || refuse "Slurm tells no address of the first node: set SEGADAPT_HEAD to one"
    MASTER_PORT=${SEGADAPT_PORT:-$(free_port)}
    export MASTER_ADDR MASTER_PORT SEGADAPT_RUN_DIR=$run_dir
    # As long as torchrun waits for its processes to save; the batch script hears of the end 300 s before it.
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
    export PYTHONFAULTHANDLER=${PYTHONFAULTHANDLER:-1}
    export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
    export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
    # Without cores per task, srun gives the step all cores of the job. It would take them from these variables, and
    # the binding and --export from others; sites that bind each task to a core mean tasks of one thread.
    one_per_node=(env -u SLURM_CPUS_PER_TASK -u SRUN_CPUS_PER_TASK -u SLURM_TRES_PER_TASK -u SLURM_EXACT -u SLURM_HINT)
    one_per_node+=(srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1)
    one_per_node+=(--cpu-bind=none --export=ALL)
    step=("${one_per_node[@]}" --kill-on-bad-exit=0 --wait=120) # the other nodes may say first who is missing
    if [[ -n ${SEGADAPT_CONTAINER:-} && $(container_kind) == pyxis ]]; then
        [[ -z ${SEGADAPT_ARCHIVE:-} ]] ||
            refuse "SEGADAPT_ARCHIVE does not go with pyxis: unpack the data first, or use apptainer"
        step+=(--container-image="$SEGADAPT_CONTAINER" --container-workdir="$PWD")
        step+=(--container-mounts="$(pyxis_mounts)")
        export SEGADAPT_CONTAINER_KIND=pyxis
    fi
}

# A name or address of the first node that the others can resolve.
head_address() {
    local names head
    mapfile -t names < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    head=${names[0]:?no nodes in SLURM_JOB_NODELIST}
    if ! getent ahosts "$head" >/dev/null 2>&1; then
        head=$(scontrol --oneliner show node "$head" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
    fi
    printf '%s' "$head"
}

# A port of this node, the first one, by the job's id; below those that Linux gives out itself. On a shared node the
# first choice may be taken. Steps of 1000, because the ports beside it are the first choices of the next jobs.
free_port() {
    local attempt port
    for attempt in {0..19}; do
        port=$((10000 + (SLURM_JOB_ID + 1000 * attempt) % 20000))
        port_is_taken "$port" || break
    done
    printf '%s' "$port"
}

port_is_taken() {
    local host
    for host in 127.0.0.1 "$MASTER_ADDR"; do
        timeout 2 bash -c ": <>/dev/tcp/$host/$1" 2>/dev/null && return 0
    done
    return 1
}

# pyxis where srun has the plugin; apptainer (or singularity) on the node else.
container_kind() {
    if [[ -n ${SEGADAPT_CONTAINER_KIND:-} ]]; then
        printf '%s' "$SEGADAPT_CONTAINER_KIND"
    elif srun --help 2>/dev/null | grep -q -- --container-image; then
        printf 'pyxis'
    else
        printf 'apptainer'
    fi
}

pyxis_mounts() {
    local mounts="$PWD:$PWD"
    [[ $SEGADAPT_HOME == "$PWD" ]] || mounts+=",$SEGADAPT_HOME:$SEGADAPT_HOME"
    printf '%s' "$mounts${SEGADAPT_MOUNTS:+,$SEGADAPT_MOUNTS}"
}

run_step() {
    status=0
    if [[ -n $stopped_by ]]; then # before anything ran
        status=143
        return
    fi
    say "${SLURM_JOB_NUM_NODES} node(s) $SLURM_JOB_NODELIST, rendezvous $MASTER_ADDR:$MASTER_PORT," \
        "start $(($(starts_so_far) + 1)): ${words[*]@Q}"
    "${step[@]}" bash "$SEGADAPT_HOME/launch/slurm/node.sh" ${one_process:+--one-process} "${words[@]}" &
    pid=$!
    [[ -z $stopped_by ]] || tell_step # the signal came when there was no step to tell
    local signals_before=-1
    while ((signals != signals_before)); do # a trapped signal ends `wait` early
        signals_before=$signals
        status=0
        wait "$pid" || status=$?
    done
}

# Slurm told this script that the end is near: the step is to save and leave.
pass_stop_on() {
    signals=$((signals + 1))
    [[ -z $stopped_by ]] || return 0
    stopped_by=$1
    say "SIG$1: telling the run to save and leave"
    [[ -z $pid ]] || tell_step
}

# Sends the step TERM once, because every torchrun passes that on to its processes, and dies from USR1 without them.
# A step that has only just been started is not known to Slurm yet.
tell_step() {
    local attempt
    [[ -z $told ]] || return 0
    for attempt in {1..60}; do
        case $(job_field JobState) in
            COMPLETING | CANCELLED) return 0 ;; # Slurm has told the processes itself
        esac
        # without --batch this reaches the processes of the steps, not this script
        if squeue --noheader --steps --jobs "$job" --format %i 2>/dev/null | grep -q '\.[0-9]*$' &&
            scancel --signal=TERM "$job"; then
            told=yes
            return 0
        fi
        [[ -n $(jobs -pr) ]] || return 0 # nothing runs
        sleep "${step_pause:-1}"
    done
    say "the run could not be told after $attempt attempts; its newest snapshot is what is left of it"
}

# Preemption with a grace time sends TERM to the processes of the steps, not to this script; at sites with
# PreemptParameters=send_user_signal it sends USR1, as the time limit does.
notice_preemption() {
    local when
    [[ $stopped_by == USR1 || (-z $stopped_by && $status != 0) ]] || return 0
    when=$(job_field PreemptTime)
    case $when in
        "" | None | N/A | "$preempt_time_before") ;;
        *) stopped_by=preemption ;;
    esac
}

# After a stop there is little time left, and requeueing matters more.
remove_staged_data() {
    [[ -n ${SEGADAPT_ARCHIVE:-} ]] || return 0
    local limit=120
    [[ -z $stopped_by ]] || limit=15
    timeout --kill-after=5 "$limit" "${one_per_node[@]}" \
        bash "$SEGADAPT_HOME/launch/slurm/node.sh" --remove-staged-data ||
        say "staged data may be left on a node"
}
