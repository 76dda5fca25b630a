# shellcheck shell=bash disable=SC2154
# For job.sh: what comes after the step, by the marks in the run folder: the end, another start, or a command to paste.
# What it knows of the job (job, words, run_dir, status, stopped_by, *_before) is run_job's.

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
    elif stops_too_early; then
        say "stopped 3 times in a row by the time limit without a newer snapshot: not started again by itself;" \
            "--time is too short for unpacking the data, starting and one iteration, or the iterations take too long" \
            "to be stopped in time"
        how=print
    fi
    if [[ $how == requeue ]]; then
        if while_slurm_is_away ask_for_requeueing; then
            say "requeued"
            exit 0
        fi
        say "requeueing is not possible here: submitting again"
        how=resubmit
    fi
    if [[ $how == resubmit ]] && resubmit; then
        hand_over_dependents && exit 0
        say "this job ends with an error, so that they do not start before the run is DONE"
        exit 1
    fi
    say_how_to_continue
    exit 1
}

# What grows in the run folder, in one line: the snapshots, and the queries of active learning.
progress() {
    [[ -z $run_dir ]] || (cd -- "$run_dir" 2>/dev/null && shopt -s nullglob && echo iteration_*.pth queries/*)
    return 0
}

# Whether the time limit has stopped the run for the third time where it was. A file in the run folder keeps count,
# and where that is: starts that get further without ending here, lost with their node for example, make it old.
# Preemption says nothing about the command.
stops_too_early() {
    local file=$run_dir/.stops_without_progress count=0 place="" now
    [[ -n $run_dir && $stopped_by == USR1 ]] || return 1
    now=$(progress)
    if [[ $now != "$progress_before" ]]; then
        rm -f -- "$file"
        return 1
    fi
    [[ ! -r $file ]] || read -r count place <"$file"
    [[ $count == [0-9] && $place == "$now" ]] || count=0
    if ((count >= 2)); then
        rm -f -- "$file" # whoever starts it again has three more
        return 0
    fi
    { mkdir -p -- "$run_dir" && echo "$((count + 1)) $now" >"$file"; } || true
    return 1
}

ask_for_requeueing() {
    scontrol requeue "$job" && return 0
    leave_if_not_running
    return 1
}

# Runs a command, for a minute again and again if Slurm's controller is away: it restarts now and then.
while_slurm_is_away() {
    local until=$((SECONDS + 60)) answers
    while true; do
        answers=""
        ! scontrol ping 2>/dev/null | grep -q ' is UP' || answers=yes
        "$@" && return 0
        [[ -z $answers ]] && ((SECONDS < until)) || return 1
        sleep "${controller_pause:-5}"
    done
}

# Ends the script where the job is not this script's to start again: requeued already, or ended by Slurm for another
# reason than its time limit. Slurm calls cancelled jobs COMPLETING as long as this script runs, and those too that
# it will requeue.
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
                say "Slurm is ending the job (it is $state): this script does not start it again, but Slurm may"
                say_how_to_continue
                exit 143
            fi
            ;;
    esac
}

say_how_to_continue() {
    local name variables=()
    resubmission_options
    for name in $(compgen -e SEGADAPT_); do
        case $name in
            SEGADAPT_RUN_DIR | SEGADAPT_EARLIER_STARTS) ;;
            *) variables+=("$name=${!name@Q}") ;;
        esac
    done
    say "to continue: cd ${PWD@Q} && ${variables[*]} sbatch ${options[*]@Q}" \
        "${SEGADAPT_HOME@Q}/launch/slurm/train.sbatch ${submitted[*]@Q}"
}

# Fills `options` with this job's resources as options of sbatch.
resubmission_options() {
    local limit features
    limit=$(squeue --noheader --jobs "$job" --format %l)
    features=$(squeue --noheader --jobs "$job" --format %f)
    options=(--job-name="$SLURM_JOB_NAME" --nodes="$SLURM_JOB_NUM_NODES")
    options+=(--partition="$SLURM_JOB_PARTITION" --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}")
    [[ ${SLURM_NTASKS_PER_NODE:-1} == 1 ]] || options+=(--ntasks-per-node="$SLURM_NTASKS_PER_NODE")
    [[ -z $limit ]] || options+=(--time="$limit")
    [[ -z $features || $features == "(null)" ]] || options+=(--constraint="$features")
    [[ -z ${SLURM_GPUS_PER_NODE:-} ]] || options+=(--gpus-per-node="$SLURM_GPUS_PER_NODE")
    [[ -z ${SLURM_MEM_PER_NODE:-} ]] || options+=(--mem="$SLURM_MEM_PER_NODE")
    [[ -z ${SLURM_MEM_PER_CPU:-} ]] || options+=(--mem-per-cpu="$SLURM_MEM_PER_CPU")
    [[ -z ${SLURM_MEM_PER_GPU:-} ]] || options+=(--mem-per-gpu="$SLURM_MEM_PER_GPU")
    [[ -z ${SLURM_JOB_ACCOUNT:-} ]] || options+=(--account="$SLURM_JOB_ACCOUNT")
    [[ -z ${SLURM_JOB_QOS:-} ]] || options+=(--qos="$SLURM_JOB_QOS")
    [[ -z ${SLURM_JOB_RESERVATION:-} ]] || options+=(--reservation="$SLURM_JOB_RESERVATION")
    [[ -z ${SLURM_ARRAY_TASK_ID:-} ]] || options+=(--array="$SLURM_ARRAY_TASK_ID")
    local extra
    read -r -a extra <<<"${SEGADAPT_SBATCH_OPTIONS:-}"
    options+=("${extra[@]}")
}

# Sets `successor`, the job that goes on in this one's place.
resubmit() {
    resubmission_options
    successor=$(
        SEGADAPT_EARLIER_STARTS=$(($(starts_so_far) + 1))
        export SEGADAPT_EARLIER_STARTS
        [[ ${TMPDIR:-} != *"$SLURM_JOB_ID"* ]] || unset TMPDIR # this job's own, soon removed
        forget_this_job
        while_slurm_is_away \
            sbatch --parsable "${options[@]}" "$SEGADAPT_HOME/launch/slurm/train.sbatch" "${submitted[@]}"
    ) || return 1
    successor=${successor%%;*}
    say "submitted again as job $successor"
}

# Jobs that wait for this one, or for its array, wait for `successor` too. Fails where one of them could not be told.
# Another task of the array may overwrite this with what it read before: what is still there after a pause counts.
hand_over_dependents() {
    local attempt untold
    for attempt in {1..8}; do
        ((attempt == 1)) || sleep "${update_pause:-$((1 + RANDOM % 3)).$((RANDOM % 10))}"
        untold=$(untold_dependents) || continue
        [[ -n $untold ]] || return 0
        ((attempt == 8)) || tell_dependents "$untold"
    done
    if [[ -n $untold ]]; then
        say "these jobs wait for this one and could not be told of job $successor:" \
            "$(cut -d '|' -f 1 <<<"$untold" | paste -s -d ' ')"
    else
        say "Slurm does not tell which jobs wait for this one"
    fi
    return 1
}

tell_dependents() {
    local id type dependency
    while IFS='|' read -r id type dependency; do
        say "job $id is to wait for job $successor too"
        scontrol update JobId="$id" Dependency="$dependency,$type:$successor"
    done <<<"$1"
}

# A line ID|TYPE|DEPENDENCY for each job that waits for this one and not for `successor`.
untold_dependents() {
    local id dependency type waiting array=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}
    waiting=$(squeue --noheader --array --user "$(id -un)" --states PENDING --format '%i|%E') || return 1
    while IFS='|' read -r id dependency; do
        [[ "$dependency," != *":$successor"?(_\*)[\(+,]* ]] || continue # with _* where it is an array of one task
        type=$(grep -oE "after[a-z]*:($SLURM_JOB_ID|$job|$array|${array}_[*])[(+,]" <<<"$dependency," | head -n 1)
        type=${type%%:*}
        [[ -n $type ]] || continue
        if [[ $type == aftercorr ]]; then # task by task: only the one with this task's number
            [[ $id == *"_${SLURM_ARRAY_TASK_ID:-}" ]] || continue
            type=afterok
        fi
        printf '%s|%s|%s\n' "$id" "$type" "${dependency//(+([a-z]))/}" # without "(unfulfilled)"
    done <<<"$waiting"
}
