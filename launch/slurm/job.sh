# shellcheck shell=bash
# What train.sbatch does, as functions: prepare the words of the command, run one torchrun per node, pass a stop
# on to it, and decide what comes next by the marks in the run folder. Variables of the user: docs/slurm.md.

set -uo pipefail
shopt -s extglob

# This job, or this task of an array. One task of every array has the id of the whole array as its SLURM_JOB_ID.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID:-}}
job=${job:-$SLURM_JOB_ID}

# Runs a script of this project with its arguments. Ends the batch script.
run_job() {
    submitted=("$@")
    words=("$@")
    stopped_by=""
    signals=0
    check_words
    fill_in_seed
    find_run_folder
    trap 'pass_stop_on USR1' USR1
    trap 'pass_stop_on TERM' TERM
    done_before=$(mark DONE)
    preempted_before=$(mark PREEMPTED)
    waiting_before=$(mark WAITING_FOR_LABELS)
    prepare_launch
    run_step
    notice_preemption
    remove_staged_data
    end_job
}

say() {
    printf '%s job %s: %s\n' "$(date '+%F %T')" "$job" "$*" >&2
}

refuse() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# --- the command ---

check_words() {
    ((${#words[@]} > 0)) || refuse "no script given: sbatch launch/slurm/train.sbatch train_ms.py ..."
    if [[ ! -f ${words[0]} && -f $SEGADAPT_HOME/${words[0]} ]]; then
        words[0]=$SEGADAPT_HOME/${words[0]}
    fi
    [[ -f ${words[0]} ]] || refuse "${words[0]} is no script here: $PWD"
    if [[ -n ${SEGADAPT_AFTER:-} ]]; then
        [[ -f $SEGADAPT_AFTER/DONE ]] || refuse "the run $SEGADAPT_AFTER, which this job follows, is not DONE"
    fi
    if [[ -z ${SEGADAPT_ARCHIVE:-} && ${words[*]} == *"{data}"* ]]; then
        refuse "{data} is the folder of the unpacked SEGADAPT_ARCHIVE, which is not set"
    fi
    if [[ -n ${SEGADAPT_ARCHIVE:-} ]] && option_value --data-root >/dev/null; then
        refuse "SEGADAPT_ARCHIVE says where the data come from; leave out --data-root"
    fi
}

# The last value of an option in the command and its argument files; fails without one.
option_value() {
    local word expanded=()
    for word in "${words[@]}"; do
        if [[ $word == @* ]]; then add_file_words "${word#@}" . 0; else expanded+=("$word"); fi
    done
    last_value "$1" "${expanded[@]}"
}

# The same, without what argument files say.
typed_value() {
    last_value "$1" "${words[@]}"
}

# The last value of option $1 among the words after it (`--x VALUE`, `--x=VALUE`, `--x_y` for `--x-y`).
last_value() {
    local wanted=$1 value="" found=1 name
    shift
    while (($# > 0)); do
        name=${1%%=*}
        if [[ $1 == --* && ${name//_/-} == "$wanted" ]]; then
            found=0
            if [[ $1 == *=* ]]; then value=${1#*=}; else value=${2-}; fi
        fi
        shift
    done
    printf '%s' "$value"
    return "$found"
}

# Adds the words of argument file $1, relative to folder $2, to `expanded`, as the program reads it: below the checkout
# otherwise, with quotes, comments and nested files. What cannot be read is left to the program, which says so.
add_file_words() {
    local file="" place line folder depth=$3
    for place in "$2/$1" "$SEGADAPT_HOME/$1"; do
        [[ $1 != /* ]] || place=$1
        [[ ! -f $place || -n $file ]] || file=$(readlink -f -- "$place")
    done
    [[ -r $file ]] && ((depth < 20)) || return 0
    folder=$(dirname "$file")
    while IFS= read -r line || [[ -n $line ]]; do
        add_line_words "${line%$'\r'}"
    done <"$file"
}

# The words of one line of an argument file, by the rules of a shell's quotes.
add_line_words() {
    local rest=$1 word quoted
    while rest=${rest##+([[:space:]])} && [[ -n $rest && $rest != "#"* ]]; do
        word=""
        while [[ -n $rest && $rest != [[:space:]#]* ]]; do
            case $rest in
                \'*\'*)
                    quoted=${rest#\'}
                    word+=${quoted%%\'*}
                    rest=${quoted#*\'}
                    ;;
                \"*\"*)
                    rest=${rest#\"}
                    while [[ -n $rest && $rest != \"* ]]; do
                        [[ $rest != \\[\"\\]* ]] || rest=${rest:1}
                        word+=${rest:0:1}
                        rest=${rest:1}
                    done
                    rest=${rest:1}
                    ;;
                *)
                    [[ $rest != \\?* ]] || rest=${rest:1}
                    word+=${rest:0:1}
                    rest=${rest:1}
                    ;;
            esac
        done
        if [[ $word == @* ]]; then
            add_file_words "${word#@}" "$folder" $((depth + 1))
        else
            expanded+=("$word")
        fi
    done
}

is_training() {
    [[ $(basename "${words[0]}") == train_*.py ]]
}

# In a job array every task is a run with its own seed and folder: {seed} in the words is its number.
fill_in_seed() {
    local number=${SLURM_ARRAY_TASK_ID:-} seed folder
    [[ -n $number ]] || return 0
    if is_training; then
        seed=$(typed_value --seed) || words+=(--seed "{seed}") # wins over an argument file's
        [[ $seed == "" || $seed == *"{seed}"* ]] ||
            refuse "a job array runs one seed per task: leave out --seed, or write --seed {seed}"
        if folder=$(option_value --snapshot-dir); then
            if [[ $folder != *"{seed}"* ]]; then
                words+=(--snapshot-dir "$folder-seed{seed}")
            elif ! typed_value --snapshot-dir >/dev/null; then
                words+=(--snapshot-dir "$folder")
            fi
        fi
    fi
    words=("${words[@]//"{seed}"/$number}")
}

# The folder whose marks decide what comes next. It is passed on explicitly, so that both sides mean the same one.
find_run_folder() {
    local word name="" seed
    run_dir=""
    is_training || return 0
    if ! run_dir=$(option_value --snapshot-dir); then
        for word in "${words[@]}"; do
            if [[ $word == @* ]]; then
                name=$(basename "${word#@}")
                break
            fi
        done
        name=${name:-$(basename "${words[0]}")}
        seed=$(option_value --seed) || seed=$(option_value --random-seed) || seed=0
        run_dir=runs/${name%.*}-seed$seed
        words+=(--snapshot-dir "$run_dir")
    fi
}

# --- the step ---

prepare_launch() {
    MASTER_ADDR=${SEGADAPT_HEAD:-$(head_address)}
    [[ -n $MASTER_ADDR ]] || refuse "Slurm tells no address of the first node: set SEGADAPT_HEAD to one"
    MASTER_PORT=${SEGADAPT_PORT:-$((10000 + SLURM_JOB_ID % 20000))} # below the ports that Linux gives out itself
    export MASTER_ADDR MASTER_PORT SEGADAPT_RUN_DIR=$run_dir
    # As long as torchrun waits for its processes to save; the batch script hears of the end 300 s before it.
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
    export PYTHONFAULTHANDLER=${PYTHONFAULTHANDLER:-1}
    export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
    export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
    step=(srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1)
    step+=(--cpus-per-task="${SLURM_CPUS_PER_TASK:-1}") # srun does not take it over from sbatch
    step+=(--kill-on-bad-exit=0 --wait=120)             # the other nodes may say first who is missing
    container_step=()
    if [[ -n ${SEGADAPT_CONTAINER:-} && $(container_kind) == pyxis ]]; then
        [[ -z ${SEGADAPT_ARCHIVE:-} ]] ||
            refuse "SEGADAPT_ARCHIVE does not go with pyxis: unpack the data first, or use apptainer"
        container_step=(--container-image="$SEGADAPT_CONTAINER" --container-workdir="$PWD")
        container_step+=(--container-mounts="$(pyxis_mounts)")
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
    local pid
    status=0
    if [[ -n $stopped_by ]]; then # before anything ran
        status=143
        return
    fi
    say "${SLURM_JOB_NUM_NODES} node(s) $SLURM_JOB_NODELIST, rendezvous $MASTER_ADDR:$MASTER_PORT," \
        "start $(($(starts_so_far) + 1)): ${words[*]@Q}"
    "${step[@]}" "${container_step[@]}" bash "$SEGADAPT_HOME/launch/slurm/node.sh" "${words[@]}" &
    pid=$!
    local signals_before=-1
    while ((signals != signals_before)); do # a trapped signal ends `wait` early
        signals_before=$signals
        status=0
        wait "$pid" || status=$?
    done
}

# Slurm told this script that the end is near: the step is to save and leave. TERM, because every torchrun passes
# that on to its processes, and dies from USR1 without them.
pass_stop_on() {
    signals=$((signals + 1))
    [[ -z $stopped_by ]] || return 0
    stopped_by=$1
    say "SIG$1: telling the run to save and leave"
    local attempt
    for attempt in {1..20}; do
        case $(job_field JobState) in
            COMPLETING | CANCELLED) return 0 ;; # Slurm has told the processes itself
        esac
        # without --batch this reaches the processes of the steps, not this script
        if squeue --noheader --steps --jobs "$job" --format %i 2>/dev/null | grep -q '\.[0-9]*$'; then
            scancel --signal=TERM "$job" && return 0
        fi
        [[ -n $(jobs -pr) ]] || return 0 # nothing runs
        sleep 1
    done
    say "the run could not be told after $attempt attempts; its newest snapshot is what is left of it"
}

# Preemption with a grace time sends TERM to the processes of the steps, not to this script.
notice_preemption() {
    local when
    ((status != 0)) && [[ -z $stopped_by ]] || return 0
    when=$(job_field PreemptTime)
    case $when in
        "" | None | N/A) ;;
        *) stopped_by=preemption ;;
    esac
}

# After a stop there is little time left, and requeueing matters more.
remove_staged_data() {
    [[ -n ${SEGADAPT_ARCHIVE:-} ]] || return 0
    local limit=120
    [[ -z $stopped_by ]] || limit=15
    timeout --kill-after=5 "$limit" srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
        bash "$SEGADAPT_HOME/launch/slurm/node.sh" --remove-staged-data ||
        say "staged data may be left on a node"
}

# --- what comes next ---

# Content of a mark in the run folder; nothing without a run folder or mark.
mark() {
    [[ -n $run_dir && -f $run_dir/$1 ]] && cat "$run_dir/$1"
    return 0
}

# torchrun's exit code does not tell a run that saved after a stop from one that failed: its marks do.
end_job() {
    local finished preempted waiting
    finished=$(mark DONE)
    preempted=$(mark PREEMPTED)
    waiting=$(mark WAITING_FOR_LABELS)
    if [[ -n $finished && ($status == 0 || $finished != "$done_before") ]]; then
        say "$run_dir is DONE"
        exit 0
    elif [[ -n $waiting && ($status == 0 || $waiting != "$waiting_before") ]]; then
        say "$run_dir waits for labels: answer (docs/annotation.md), then submit the same command again"
        exit 0
    elif [[ -n $preempted && $preempted != "$preempted_before" ]]; then
        say "the run was stopped and has saved"
        continue_later
    elif [[ -n $stopped_by && ($status != 0 || -n $run_dir) ]]; then
        say "stopped before it could save again; the next start goes on from the newest snapshot"
        continue_later
    elif ((status != 0)); then
        say "failed with exit code $status; the line that begins with 'error' or 'stopped' above says why"
    fi
    exit "$status"
}

starts_so_far() {
    printf '%d' $((${SLURM_RESTART_COUNT:-0} + ${SEGADAPT_EARLIER_STARTS:-0}))
}

# Requeues this job; where that is not allowed submits a new one; where that is not allowed says the command.
continue_later() {
    local how=${SEGADAPT_ON_STOP:-requeue} limit=${SEGADAPT_MAX_STARTS:-50}
    trap '' USR1 TERM # requeueing ends this job's processes, even the one that asks for it
    leave_if_not_running
    if (($(starts_so_far) + 1 >= limit)); then
        say "stopped for the $limit. time (SEGADAPT_MAX_STARTS): not started again by itself"
        how=print
    fi
    if [[ $how == requeue ]]; then
        if scontrol requeue "$job"; then
            say "requeued"
            exit 0
        fi
        leave_if_not_running
        say "requeueing is not possible here: submitting again"
        how=resubmit
    fi
    if [[ $how == resubmit ]] && resubmit; then
        exit 0
    fi
    resubmission_options
    say "to continue: cd ${PWD@Q} && sbatch ${options[*]@Q} ${SEGADAPT_HOME@Q}/launch/slurm/train.sbatch ${submitted[*]@Q}"
    exit 1
}

# Ends the script where the job is not this script's to start again: requeued already, or ended by Slurm for another
# reason than its time limit. Slurm calls cancelled jobs COMPLETING as long as this script runs.
leave_if_not_running() {
    local state
    state=$(job_field JobState)
    case $state in
        RUNNING | SUSPENDED | STOPPED | "") ;;
        PENDING | REQUEUED | CONFIGURING)
            say "Slurm has requeued the job"
            exit 0
            ;;
        *)
            if [[ $(job_field Reason) != TimeLimit ]]; then
                say "cancelled (the job is $state): not started again by itself"
                exit 143
            fi
            ;;
    esac
}

# A field of `scontrol show job` about this job.
job_field() {
    scontrol --oneliner show job "$job" 2>/dev/null | sed -n "s/.* $1=\([^ ]*\).*/\1/p"
}

# Fills `options` with this job's resources as options of sbatch.
resubmission_options() {
    local limit features
    limit=$(squeue --noheader --jobs "$job" --format %l)
    features=$(squeue --noheader --jobs "$job" --format %f)
    options=(--job-name="$SLURM_JOB_NAME" --nodes="$SLURM_JOB_NUM_NODES")
    options+=(--partition="$SLURM_JOB_PARTITION" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}")
    [[ -z $limit ]] || options+=(--time="$limit")
    [[ -z $features || $features == "(null)" ]] || options+=(--constraint="$features")
    [[ -z ${SLURM_GPUS_PER_NODE:-} ]] || options+=(--gpus-per-node="$SLURM_GPUS_PER_NODE")
    [[ -z ${SLURM_MEM_PER_NODE:-} ]] || options+=(--mem="$SLURM_MEM_PER_NODE")
    [[ -z ${SLURM_MEM_PER_CPU:-} ]] || options+=(--mem-per-cpu="$SLURM_MEM_PER_CPU")
    [[ -z ${SLURM_JOB_ACCOUNT:-} ]] || options+=(--account="$SLURM_JOB_ACCOUNT")
    [[ -z ${SLURM_JOB_QOS:-} ]] || options+=(--qos="$SLURM_JOB_QOS")
    [[ -z ${SLURM_JOB_RESERVATION:-} ]] || options+=(--reservation="$SLURM_JOB_RESERVATION")
    [[ -z ${SLURM_ARRAY_TASK_ID:-} ]] || options+=(--array="$SLURM_ARRAY_TASK_ID")
    local extra
    read -r -a extra <<<"${SEGADAPT_SBATCH_OPTIONS:-}"
    options+=("${extra[@]}")
}

resubmit() {
    local new
    resubmission_options
    new=$(
        SEGADAPT_EARLIER_STARTS=$(($(starts_so_far) + 1))
        export SEGADAPT_EARLIER_STARTS
        forget_this_job
        sbatch --parsable "${options[@]}" "$SEGADAPT_HOME/launch/slurm/train.sbatch" "${submitted[@]}"
    ) || return 1
    new=${new%%;*}
    say "submitted again as job $new"
    hand_over_dependents "$new"
}

# Variables of this job must not reach the next one, SLURM_RESTART_COUNT least of all.
forget_this_job() {
    local name
    for name in $(compgen -e SLURM_); do
        [[ $name == SLURM_CONF ]] || unset "$name"
    done
}

# Jobs that wait for this one, or for its array, wait for job $1 too.
hand_over_dependents() {
    local id dependency type array=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}
    while IFS='|' read -r id dependency; do
        type=$(grep -oE "after[a-z]*:($SLURM_JOB_ID|$job|$array|${array}_[*])[(+,]" <<<"$dependency," | head -n 1)
        [[ -n $type ]] || continue
        dependency=${dependency//(+([a-z]))/},${type%%:*}:$1 # without "(unfulfilled)"
        if scontrol update JobId="$id" Dependency="$dependency"; then
            say "job $id waits for job $1 too"
        else
            say "job $id waits for this job and could not be told of job $1"
        fi
    done < <(squeue --noheader --user "$(id -un)" --states PENDING --format '%i|%E')
}
