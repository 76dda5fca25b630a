#!/bin/bash
# Submits a whole pipeline as a chain of jobs: stage I -> pseudo labels -> stage II -> evaluation.
#
#   launch/slurm/pipeline.sh gta5_to_cityscapes runs/gta5 \
#       all: --data-root DATA \
#       stage-one: --backbone-weights DeepLab_resnet_pretrained_init-f81d91e8.pth \
#       sbatch-training: --gpus-per-node 2 --time 24:00:00
#
# The first word names the recipes (launch/recipes/NAME_mrnet.args and NAME_rectified.args, or a path without
# _mrnet.args), the second the folder of the results. Then sections of words, each begun by its name:
#
#   all:               for every script
#   stage-one: labels: stage-two: evaluation:          for train_ms.py, generate_plabel.py, train_ft.py, evaluate.py
#   target:            the target data set (otherwise what follows _to_ in the name)
#   second:            the second stage's recipe, instead of NAME_rectified (for example NAME_plain)
#   sbatch: sbatch-training: sbatch-inference:         options of sbatch for all jobs, for the trainings, for the others
#
# Every job starts when the one before has succeeded; one that is stopped on the way comes back, and the chain waits
# for it. Called again, it goes on where it ended: finished runs are passed over.
#
# With `sbatch: --array 0-2` and {seed} in the folder (runs/{seed}) there is a chain for every seed.

if [ "$((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1]))" -lt 404 ]; then
    echo "error: bash $BASH_VERSION is too old: bash 4.4 or newer is needed" >&2
    exit 2
fi
set -euo pipefail

usage() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

refuse() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

(($# >= 2)) || usage
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export SEGADAPT_HOME=$home
name=$1 folder=$2
shift 2

all=() stage_one=() labels=() stage_two=() evaluation=() target=() second=()
sbatch=() sbatch_training=() sbatch_inference=()
section=""
for word in "$@"; do
    case $word in
        all: | stage-one: | labels: | stage-two: | evaluation: | target: | second: | sbatch: | sbatch-training: | sbatch-inference:)
            section=${word%:}
            section=${section//-/_}
            ;;
        *)
            [[ -n $section ]] || refuse "$word belongs to no section; sections begin with words like all:"
            declare -n words=$section
            words+=("$word")
            ;;
    esac
done

# The argument file of a stage: NAME or a path, with the stage's ending.
recipe() {
    local file
    for file in "$1.args" "$home/launch/recipes/$1.args"; do
        if [[ -f $file ]]; then
            printf '%s' "$file"
            return
        fi
    done
    refuse "no recipe $1.args, here or in launch/recipes"
}

array=${SBATCH_ARRAY_INX:-}
for word in "${sbatch[@]}"; do
    [[ $word != -a* && $word != --array* ]] || array=$word
done
for word in "${sbatch_training[@]}" "${sbatch_inference[@]}"; do
    [[ $word != -a* && $word != --array* ]] || refuse "the whole chain is an array, or nothing: say sbatch: $word"
done
if [[ -n $array && $folder != *"{seed}"* ]]; then
    refuse "the tasks of an array need folders of their own: write {seed} in it, for example $folder/{seed}"
elif [[ -z $array && $folder == *"{seed}"* ]]; then
    refuse "{seed} in $folder is the number of a task of a job array: say sbatch: --array 0-2, or write the number"
fi

first_recipe=$(recipe "${name}_mrnet")
second_recipe=$(recipe "${second[0]:-${name}_rectified}")
if ((${#target[@]} == 0)); then
    [[ $name == *_to_* ]] || refuse "say which data set is the target: target: cityscapes"
    target=("${name##*_to_}")
fi

# The jobs are none of a job in which this script may run.
# shellcheck source=launch/slurm/forget.sh
source "$home/launch/slurm/forget.sh"
forget_this_job

after=afterok
[[ -z $array ]] || after=aftercorr # each task after the one with its number
previous="" previous_run="" submitted=()
# submit TITLE TRAINING|INFERENCE WORD...: a job after the previous one.
submit() {
    local title=$1 kind=$2 options=("${sbatch[@]}")
    shift 2
    if [[ $kind == training ]]; then options+=("${sbatch_training[@]}"); else options+=("${sbatch_inference[@]}"); fi
    [[ -z $previous ]] || options+=("--dependency=$after:$previous" --kill-on-invalid-dep=yes)
    previous=$(SEGADAPT_AFTER=$previous_run sbatch --parsable --job-name="$title" "${options[@]}" \
        "$home/launch/slurm/train.sbatch" "$@" "${all[@]}") || give_up "$title"
    previous=${previous%%;*}
    submitted+=("$previous")
    printf '%s %s: %s\n' "$previous" "$title" "$*"
}

give_up() {
    printf 'error: sbatch refused %s\n' "$1" >&2
    ((${#submitted[@]} == 0)) || printf 'to withdraw the jobs before it: scancel %s\n' "${submitted[*]}" >&2
    exit 1
}

[[ -n $array ]] || mkdir -p "$folder"
submit stage_one training train_ms.py "@$first_recipe" --snapshot-dir "$folder/stage_one" "${stage_one[@]}"
previous_run=$folder/stage_one
submit labels inference generate_plabel.py --restore-from "$folder/stage_one" --target "${target[@]}" "${labels[@]}"
submit stage_two training train_ft.py "@$second_recipe" --restore-from "$folder/stage_one" \
    --snapshot-dir "$folder/stage_two" "${stage_two[@]}"
previous_run=$folder/stage_two
submit evaluation inference evaluate.py "$folder/stage_one" "$folder/stage_two" --target "${target[@]}" \
    --json "$folder/scores.json" "${evaluation[@]}"
