#!/bin/sh
# Runs a Docker engine of its own, apart from any other on the machine, until its standard input
# ends. Its API is at DIRECTORY/docker.sock; its log goes to standard error.
#
#   unshare --pid --fork --kill-child --mount --mount-proc --net sh docker.sh DIRECTORY
#
# The namespaces keep its bridge, firewall rules, mounts and containers off the machine, and end
# them with it, whatever happens. Its containers therefore reach each other but not the outside.
set -eu
directory=$1

if [ -e "$directory/docker.sock" ]; then
    rm "$directory/docker.sock"
fi
# The paths of its own sockets may not be long, as DIRECTORY may be. Nobody else sees this /run.
mount -t tmpfs -o mode=0755 tmpfs /run
dockerd --data-root "$directory/data" --exec-root /run/docker --pidfile /run/docker.pid \
    --host "unix://$directory/docker.sock" --shutdown-timeout 2 </dev/null &
engine=$!
# A signal to end comes from a terminal or a service manager, to the whole group.
trap 'kill -TERM "$engine" 2>/dev/null' TERM INT HUP
while read -r _; do :; done
kill -TERM "$engine" 2>/dev/null || :
wait "$engine" || :
