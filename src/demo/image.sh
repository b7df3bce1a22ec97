#!/bin/sh
# Writes the files of a small image, made of the machine's static busybox, as a tar archive.
#
#   sh image.sh KIND >image.tar
#
# KIND is limited (a shell and no init), bash (the same with a /bin/bash) or os (busybox init as
# the operating system, started and stopped by WalT's two scripts).
set -eu
kind=$1

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

tar -C "$tree" --owner=0 --group=0 --numeric-owner -c .
