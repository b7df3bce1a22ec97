#!/bin/sh
# Runs a Podman service of its own, apart from any other on the machine, until its standard input
# ends. Its Docker API is at DIRECTORY/podman.sock; its log goes to standard error.
#
#   unshare --pid --fork --kill-child --mount --mount-proc --net sh podman.sh DIRECTORY
#
# The namespaces keep its mounts and containers off the machine, and end them with it.
set -eu
directory=$1

# Nobody else sees this /run, where podman keeps locks and the state of containers.
mount -t tmpfs -o mode=0755 tmpfs /run
# Debian's crun refuses machines whose cgroups are of both versions; runc does not. The limits
# are those of any login: podman's own are beyond what root may have in a container.
cat >"$directory/containers.conf" <<CONF
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
oom_score_adj = 0
pids_limit = 0
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[engine.runtimes]
runc = ["$(command -v runc)"]
CONF
cat >"$directory/storage.conf" <<CONF
[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "$directory/storage"
CONF
printf '{ "default": [{ "type": "insecureAcceptAnything" }] }\n' >"$directory/policy.json"
export CONTAINERS_CONF="$directory/containers.conf" CONTAINERS_STORAGE_CONF="$directory/storage.conf"
export TMPDIR="$directory"
# Here it notes that a container was out of memory.
cd "$directory"
podman system service --time 0 "unix://$directory/podman.sock" </dev/null &
engine=$!
trap 'kill -TERM "$engine" 2>/dev/null' TERM INT HUP
while read -r _; do :; done
kill -TERM "$engine" 2>/dev/null || :
wait "$engine" || :
