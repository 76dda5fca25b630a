#!/bin/bash
# Installs what the tests of the batch scripts need: Slurm and munge from Debian's packages. They start their own
# cluster of two virtual nodes; nothing is configured or started on this machine.

set -euo pipefail

packages=(slurmctld slurmd slurm-client munge)
missing=()
for program in slurmctld slurmd sbatch munged; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing+=("$program")
done
if ((${#missing[@]} > 0)); then
    command -v apt-get >/dev/null || {
        echo "error: ${missing[*]} not found, and no apt-get here: install ${packages[*]} of Slurm 22.05 or newer" >&2
        exit 2
    }
    [[ $(id -u) == 0 ]] || {
        echo "error: ${missing[*]} not found; as root: apt-get install ${packages[*]}" >&2
        exit 2
    }
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
fi
[[ $(id -u) == 0 ]] || {
    echo "error: the cluster of the tests runs as root: start make test-slurm as root, in a container for example" >&2
    exit 2
}
