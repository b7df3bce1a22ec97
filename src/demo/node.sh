#!/bin/sh
# Becomes a small node: an SSH server with a volatile root file system (an overlay in memory over
# the machine's own, as WalT nodes have) and a /persist that stays.
#
#   unshare --pid --fork --kill-child --mount --uts sh node.sh DIRECTORY NAME SERVER ADDRESS PORT
#
# SERVER is sshd or dropbear. DIRECTORY holds host_key, authorized_keys, persist/, an empty
# directory overlay/, and optionally sshd_config.extra and passwd.extra. All mounts and processes go away with the
# namespaces, so killing the unshare process is pulling the node's plug.
set -eu
directory=$1 name=$2 server=$3 address=$4 port=$5

overlay=$directory/overlay
root=$overlay/root
mount -t tmpfs -o mode=0755 tmpfs "$overlay"
mkdir "$overlay/upper" "$overlay/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$overlay/upper,workdir=$overlay/work" overlay "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
for volatile in run tmp root; do
    mount -t tmpfs -o mode=0755 tmpfs "$root/$volatile"
done
chmod 1777 "$root/tmp"
mkdir -p "$root/persist" "$root/run/sshd" "$root/root/.ssh"
mount --bind "$directory/persist" "$root/persist"

hostname "$name"
printf '%s\n' "$name" >"$root/etc/hostname"
if [ -e "$directory/passwd.extra" ]; then
    cat "$directory/passwd.extra" >>"$root/etc/passwd"
fi
printf '127.0.0.1 localhost %s\n' "$name" >"$root/etc/hosts"
: >"$root/etc/motd"
printf '%s\n' "PS1='\\u@\\h:\\w\\\$ '" >"$root/root/.bashrc"
printf 'set enable-bracketed-paste off\n' >"$root/root/.inputrc"
printf '[ -n "$BASH" ] && . /root/.bashrc\ncd\n' >"$root/root/.profile"

chmod 0700 "$root/root" "$root/root/.ssh"
install -m 0600 "$directory/authorized_keys" "$root/root/.ssh/authorized_keys"
install -m 0600 "$directory/host_key" "$root/run/host_key"

case $server in
sshd)
    cat >"$root/run/sshd_config" <<EOF
ListenAddress $address:$port
HostKey /run/host_key
AuthorizedKeysFile /root/.ssh/authorized_keys
AuthenticationMethods publickey
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PidFile none
PrintLastLog no
AcceptEnv LANG LC_* FOO
MaxStartups 200
MaxSessions 200
Subsystem sftp internal-sftp
EOF
    if [ -e "$directory/sshd_config.extra" ]; then
        cat "$directory/sshd_config.extra" >>"$root/run/sshd_config"
    fi
    # sshd starts itself anew for each connection, so it wants its full path.
    exec chroot "$root" /usr/sbin/sshd -D -e -f /run/sshd_config
    ;;
dropbear)
    dropbearconvert openssh dropbear "$root/run/host_key" "$root/run/dropbear_key" 2>/dev/null
    exec chroot "$root" /usr/sbin/dropbear -F -E -m -s -P /run/dropbear.pid \
        -r /run/dropbear_key -p "$address:$port"
    ;;
*)
    echo "node.sh: unknown server $server: sshd or dropbear" >&2
    exit 64
    ;;
esac
