# shellcheck shell=bash
# For job.sh: what the words of the command become, and which run folder they mean.

check_words() {
    ((${#words[@]} > 0)) || refuse "no script given: sbatch launch/slurm/train.sbatch train_ms.py ..."
    if [[ ! -f ${words[0]} && -f $SEGADAPT_HOME/${words[0]} ]]; then
        words[0]=$SEGADAPT_HOME/${words[0]}
    fi
    [[ -f ${words[0]} ]] || refuse "${words[0]} is no script here: $PWD"
    if [[ -z ${SEGADAPT_ARCHIVE:-} && ${words[*]} == *"{data}"* ]]; then
        refuse "{data} is the folder of the unpacked SEGADAPT_ARCHIVE, which is not set"
    fi
    if [[ -n ${SEGADAPT_ARCHIVE:-} ]] && option_value --data-root >/dev/null; then
        refuse "SEGADAPT_ARCHIVE says where the data come from; leave out --data-root"
    fi
    check_processes
}

# Sets `one_process` for the two scripts of the checkout that cannot share their work. All others are left alone.
check_processes() {
    local script
    one_process=""
    for script in prepare_data.py annotate.py; do
        [[ ! ${words[0]} -ef $SEGADAPT_HOME/$script ]] || one_process=$script
    done
    [[ -n $one_process ]] || return 0
    ((SLURM_JOB_NUM_NODES == 1)) || refuse "$one_process runs in one process: leave out --nodes"
    say "$one_process cannot share its work: it runs in one process"
}

# The run that must be DONE before this job may start.
check_predecessor() {
    local run=${SEGADAPT_AFTER:-}
    run=${run//"{seed}"/${SLURM_ARRAY_TASK_ID:-}}
    [[ -z $run || -f $run/DONE ]] || refuse "the run $run, which this job follows, is not DONE"
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

# In a job array every task is a run with its own seed and folder: {seed} in the words is its number. What is added
# at the end wins over the argument files.
fill_in_seed() {
    local number=${SLURM_ARRAY_TASK_ID:-} seed folder
    if [[ -z $number ]]; then
        [[ "${words[*]} ${SEGADAPT_AFTER:-}" != *"{seed}"* ]] || refuse_seed
        return 0
    fi
    if is_training; then
        seed=$(typed_value --seed) || seed="{seed}"
        [[ $seed == *"{seed}"* ]] ||
            refuse "a job array runs one seed per task: leave out --seed, or write --seed {seed}"
        words+=(--seed "$seed")
        if folder=$(option_value --snapshot-dir); then
            [[ $folder == *"{seed}"* ]] || folder+="-seed{seed}"
            words+=(--snapshot-dir "$folder")
        fi
    fi
    words=("${words[@]//"{seed}"/$number}")
}

refuse_seed() {
    refuse "{seed} is the number of a task of a job array: say --array 0-2 to sbatch, or write the number"
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
    [[ $run_dir != *"{seed}"* ]] || refuse_seed
}
