#!/bin/sh
# Run a command in the container. `docker run … horovodrun …`, `… hvd-dqn train …` and `… train …`
# all work: a first word that is no program is a command of hvd-dqn.
set -eu

if ! command -v -- "${1-}" > /dev/null; then
  set -- hvd-dqn "$@"
fi

# Open MPI names its temporary files by process numbers. These repeat when a killed container is
# started again, and mpirun would find its own old files, so every start gets a new directory unless
# the user sets one.
if [ -z "${PRTE_MCA_prte_tmpdir_base-}${PRTE_MCA_prte_local_tmpdir_base-}" ]; then
  if directory=$(mktemp -d 2> /dev/null); then
    export PRTE_MCA_prte_local_tmpdir_base="$directory"
  fi
fi

exec "$@"
