#!/bin/sh
# Imports a small image, made of the machine's static busybox, into the engine at DOCKER_HOST.
#
#   DOCKER_HOST=unix:///path/docker.sock sh image.sh KIND REFERENCE [CHANGE...]
#
# KIND is limited (a shell and no init), bash (the same with a /bin/bash) or os (busybox init as
# the operating system, started and stopped by WalT's two scripts). Each CHANGE is a Dockerfile
# instruction to apply, such as 'ENV COLOUR=blue'.
set -eu
kind=$1 reference=$2
shift 2

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
trap 'exit 1' HUP INT TERM

mkdir -p "$tree/bin" "$tree/sbin" "$tree/etc" "$tree/root" "$tree/tmp" "$tree/run" \
    "$tree/proc" "$tree/sys" "$tree/dev" "$tree/var/log" "$tree/usr/bin"
chmod 1777 "$tree/tmp"
cp "$(command -v busybox)" "$tree/bin/busybox"
for applet in $("$tree/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$tree/etc/passwd"
printf 'root:x:0:\n' >"$tree/etc/group"

case $kind in
limited) ;;
bash)
    # busybox's shell under bash's name, which says who it is.
    printf '#!/bin/sh\nINVOKED_AS=bash exec /bin/sh "$@"\n' >"$tree/bin/bash"
    chmod 0755 "$tree/bin/bash"
    ;;
os)
    rm -f "$tree/bin/init"
    ln -s /bin/busybox "$tree/sbin/init"
    cat >"$tree/etc/inittab" <<'EOF'
::sysinit:/bin/sh -c 'echo booted >/run/booted'
::respawn:/bin/sleep 86400
::shutdown:/bin/sh -c 'echo stopped >/run/stopped'
EOF
    printf '#!/bin/sh\nexec /sbin/init\n' >"$tree/bin/walt-image-shell-start"
    # busybox init takes USR2 for power-off.
    printf '#!/bin/sh\nkill -USR2 1\n' >"$tree/bin/walt-image-shell-shutdown"
    chmod 0755 "$tree/bin/walt-image-shell-start" "$tree/bin/walt-image-shell-shutdown"
    ;;
*)
    echo "image.sh: unknown kind $kind: limited, bash or os" >&2
    exit 64
    ;;
esac

count=$#
while [ "$count" -gt 0 ]; do
    change=$1
    shift
    set -- "$@" --change "$change"
    count=$((count - 1))
done
tar -C "$tree" --owner=0 --group=0 --numeric-owner -c . | docker import --change 'CMD ["/bin/sh"]' "$@" - "$reference"
