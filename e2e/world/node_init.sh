#!/bin/sh
# First process of a node, in the node's network namespace and in a fresh,
# private mount namespace. It makes $1 the root folder, with the machine's
# programs below /usr, own /etc /var /opt /run, and kernel file systems as the
# node sees them; then it stays, to hold the namespaces.
#   $1 root folder   $2 ready file (inside the root)   $3 machine's folder for /var/log
#   rest: machine's folder=node's folder, read-only
set -eu
root=$1
ready=$2
logs=$3
shift 3
mount --bind "$root" "$root"
cd "$root"

mount --bind /usr usr
mount -o remount,bind,ro usr
for bind in "$@"; do
	mount --bind "${bind%%=*}" ".${bind#*=}"
	mount -o remount,bind,ro ".${bind#*=}"
done

mount --bind "$logs" var/log

mount -t proc proc proc
mount --rbind /dev dev
# A new sysfs shows this network namespace's devices; the cgroup hierarchies
# below it are the machine's.
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
if test -d /sys/fs/bpf; then mount --rbind /sys/fs/bpf sys/fs/bpf; fi
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/netns run/lock

# Files instead of settings that are the whole machine's: a kubelet sets the
# sysctls if they differ, and a node that reboots has a new boot ID.
cd fake-proc
find . -type f | while read -r file; do
	test ! -e "/proc/$file" || mount --bind "$file" "../proc/$file"
done
cd ..

pivot_root . .old-root
umount -l /.old-root
# Pods mount host folders with HostToContainer propagation, for which the
# mounts must be shared.
mount --make-rshared /
: >"$ready"
exec sleep infinity
