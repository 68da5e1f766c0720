#!/bin/bash
# Build the image for nodes without a GPU and train CartPole on two ranks in it, as root:
#
#   tests/container/try.sh [DIRECTORY]
#
# Needs buildah, but no Docker engine. If no registry of images can be reached, debootstrap makes the
# base. In the build, pip uses the configuration of this machine. All files go to DIRECTORY, which is
# kept; the default is a temporary directory, which is removed.
set -euo pipefail
cd "$(dirname "$0")/../.."
if (($#)); then
  work=$(mkdir -p "$1" && realpath "$1")
else
  work=$(mktemp -d /var/tmp/hvd-dqn-container.XXXXXX)
  trap 'rm -rf "$work"' EXIT
fi
step() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }
image() { buildah --root "$work/storage" --runroot "$work/state" "$@"; }
export BUILDAH_ISOLATION=chroot

step "a base"
base=docker.io/library/debian:bookworm-slim
if ! timeout 60 buildah --root "$work/storage" --runroot "$work/state" pull -q "$base"; then
  # shellcheck disable=SC2016  # apt-get's own variable
  mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | head -n 1)
  [ -d "$work/base/etc" ] || debootstrap --variant=minbase bookworm "$work/base" "$mirror" > "$work/debootstrap.log"
  base=localhost/debian:bookworm
  container=$(image from scratch)
  image add -q "$container" "$work/base" /
  image commit -q --rm "$container" "$base"
fi

step "the image"
volumes=()
python3 -m pip config list | sed -nE "s/^global\.([a-z-]+)='(.*)'$/\1 = \2/p" > "$work/found"
certificates=$(sed -n 's/^cert = //p' "$work/found")
{ echo "[global]"; sed "s|^cert = .*|cert = /etc/pip-cert.pem|" "$work/found"; } > "$work/pip.conf"
volumes+=(--volume "$work/pip.conf:/etc/pip.conf:ro")
[ -z "$certificates" ] || volumes+=(--volume "$certificates:/etc/pip-cert.pem:ro")
# shellcheck disable=SC2013  # a line may hold several
for place in $(sed -nE 's/^(find-links|extra-index-url|index-url) = //p' "$work/found"); do
  place=${place#file://}
  place=${place%/simple}  # the index's links lead to files in this directory
  [ ! -d "$place" ] || volumes+=(--volume "$place:$place:ro")
done
options=()
curl -fsIm 20 https://download.pytorch.org/whl/cpu/ > "$work/index" 2>&1 || options=(--build-arg PIP_OPTIONS=)
image build -q --format docker --layers=false --build-arg BUILD_BASE="$base" --build-arg RUN_BASE="$base" \
  "${options[@]}" "${volumes[@]}" --tag hvd-dqn .
image images --format '{{.Name}}: {{.Size}}' | grep hvd-dqn

step "what is in it"
container=$(image from hvd-dqn)
inspect() { image inspect --type container --format "$1" "$container"; }
run() { image run "$container" -- "$@"; }
[ "$(run id -un)" = dqn ]
for compiler in cc gcc g++ c++ make cmake nvcc; do
  if run which "$compiler"; then echo "$compiler is in the image"; exit 1; fi
done
mapfile -t entry < <(inspect '{{range .Docker.Config.Entrypoint}}{{println .}}{{end}}' | sed '/^$/d')
run hvd-dqn doctor --node
mapfile -t check < <(inspect '{{range .Docker.Config.Healthcheck.Test}}{{println .}}{{end}}' | sed '/^$/d; 1{/^CMD$/d}')
run "${check[@]}"  # no run is active, so the container is healthy
run "${entry[@]}" presets cartpole > "$work/preset"
# Every start has another temporary directory for Open MPI, unless the user sets one.
# shellcheck disable=SC2016  # the container's own variable
where() { run "$@" "${entry[@]}" sh -c '[ -d "$PRTE_MCA_prte_local_tmpdir_base" ] && echo "$PRTE_MCA_prte_local_tmpdir_base"'; }
[ "$(where)" != "$(where)" ]
[ "$(where env PRTE_MCA_prte_local_tmpdir_base=/data)" = /data ]
run hvd-dqn slurm render -- train cartpole > "$work/script"

step "CartPole on two ranks"
run "${entry[@]}" horovodrun -np 2 hvd-dqn train cartpole --run-dir runs/a | tee "$work/train"
grep -q "final evaluation" "$work/train"
run "${entry[@]}" summary runs/a
run "${check[@]}"

if (($#)); then
  step "its files, for tests/cluster/test_container.py"
  rm -rf "$work/tree"
  cp -a "$(image mount "$container")" "$work/tree"
fi
step "done"
