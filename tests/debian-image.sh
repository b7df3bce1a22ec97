#!/bin/sh
# Prints the path of a tar archive with the files of an image. It is made of packages of the machine's
# Debian mirror, as root and once; then it is kept in ~/.cache/waltgate until this script changes.
#
#   sh debian-image.sh KIND
#
# KIND is systemd (Debian with systemd, started and stopped by WalT's two scripts) or arm64 (busybox for
# another CPU than most machines have).
set -eu
kind=$1
case $kind in
systemd | arm64) ;;
*)
    echo "debian-image.sh: unknown kind $kind: systemd or arm64" >&2
    exit 64
    ;;
esac
script=$(readlink -f "$0")

. /etc/os-release
recipe=$(printf '%s %s\n' "$kind" "$VERSION_CODENAME" | cat - "$script" | sha256sum | cut -c1-12)
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/waltgate
archive=$cache/$kind-$recipe.tar
mkdir -p "$cache"

# Two runs at the same time make one.
exec 3>&2 9>"$cache/$kind.lock"
flock 9
if [ -e "$archive" ]; then
    touch "$archive"
    echo "$archive"
    exit
fi

# What killed runs left.
rm -rf "$cache/making-$kind"
work=$cache/making-$kind
mkdir "$work"
clean_up() {
    status=$?
    if [ "$status" -ne 0 ]; then
        tail -n 30 "$work/log" >&3
        echo "debian-image.sh: the image $kind could not be made" >&3
    fi
    rm -rf "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM
tree=$work/tree
mirror=$(apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' "Codename: $VERSION_CODENAME" 'Component: main' | head -n 1)

systemd() {
    # What it mounts ends with it, however it ends.
    unshare --mount debootstrap --variant=minbase --include=systemd-sysv,dbus,ifupdown \
        "$VERSION_CODENAME" "$tree" "$mirror"
    # Half of it is nothing that a test looks at.
    rm -rf "$tree"/usr/share/doc "$tree"/usr/share/info "$tree"/usr/share/locale "$tree"/usr/share/man \
        "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/var/log/*.log
    # As in any image that several machines are made of: each gives itself one.
    : >"$tree/etc/machine-id"
    rm -f "$tree/var/lib/dbus/machine-id"
    printf 'auto lo\niface lo inet loopback\n' >"$tree/etc/network/interfaces"

    cat >"$tree/etc/systemd/system/greeter.service" <<'UNIT'
[Unit]
Description=Enabled in the image
[Service]
ExecStart=/bin/sh -c 'echo greetings >/run/greeter; exec sleep infinity'
[Install]
WantedBy=multi-user.target
UNIT
    cat >"$tree/etc/systemd/system/extra.service" <<'UNIT'
[Unit]
Description=For a user to enable
[Service]
ExecStart=/bin/sh -c 'echo extra >/run/extra; exec sleep infinity'
[Install]
WantedBy=multi-user.target
UNIT
    chroot "$tree" systemctl enable greeter.service

    # What WalT's own images do: lo is up in a container already, so systemd must not try.
    cat >"$tree/bin/walt-image-shell-start" <<'START'
#!/bin/sh
mv /etc/network/interfaces /etc/network/interfaces.saved
exec /sbin/init
START
    cat >"$tree/bin/walt-image-shell-shutdown" <<'SHUTDOWN'
#!/bin/sh
mv /etc/network/interfaces.saved /etc/network/interfaces
exec init 0
SHUTDOWN
    chmod 0755 "$tree/bin/walt-image-shell-start" "$tree/bin/walt-image-shell-shutdown"
}

arm64() {
    # An apt of its own: the machine's knows nothing of other CPUs, and is not to.
    mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial" "$work/package"
    echo "deb $mirror $VERSION_CODENAME main" >"$work/apt/sources.list"
    : >"$work/apt/status"
    cat >"$work/apt/apt.conf" <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::Etc::sourcelist "$work/apt/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "$work/apt";
Dir::State::status "$work/apt/status";
Dir::Cache "$work/apt";
CONF
    export APT_CONFIG="$work/apt/apt.conf"
    apt-get update -q
    (cd "$work/package" && apt-get download -q busybox-static)
    mkdir -p "$tree/bin" "$tree/etc" "$tree/root" "$tree/tmp" "$tree/run" "$tree/proc" "$tree/sys" "$tree/dev"
    dpkg-deb -x "$work"/package/*.deb "$work/files"
    cp "$work/files/bin/busybox" "$tree/bin/busybox"
    for applet in cat cp ls rm sh stty uname; do
        ln -s busybox "$tree/bin/$applet"
    done
    chmod 1777 "$tree/tmp"
    printf 'root:x:0:0:root:/root:/bin/sh\n' >"$tree/etc/passwd"
    printf 'root:x:0:\n' >"$tree/etc/group"
}

# They say a lot, which helps only when they fail.
"$kind" 3>&- 9>&- >"$work/log" 2>&1
tar -C "$tree" --numeric-owner -cf "$work/archive" .
mv "$work/archive" "$archive"
# Those of other versions of this script, once nobody has used them for a while.
find "$cache" -name "$kind-*.tar" -mtime +7 -delete
echo "$archive"
