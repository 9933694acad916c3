#!/bin/sh
# Removes a world: its processes (by cgroup), cgroups, network namespaces with
# their links, and temporary folders. It touches only what bears the prefix
# given as $1. With $2 = wait, it first waits until its standard input closes,
# which happens also when the process that started it is killed.
set -u
prefix=$1
test -n "$prefix" || exit 2
test "${2:-}" != wait || cat >/dev/null

cgroups() {
	for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
		test ! -d "$hierarchy/$prefix" || echo "$hierarchy/$prefix"
	done
}

pids() {
	for dir in $(cgroups); do
		find "$dir" -name cgroup.procs -exec cat {} + 2>/dev/null
	done | sort -u
}

# A process that forks while it is hunted needs another round; 15 s is far
# more than the kernel takes to reap the few hundred processes of a world.
rounds=0
while left=$(pids) && test -n "$left" && test $rounds -lt 150; do
	kill -9 $left 2>/dev/null
	sleep 0.1
	rounds=$((rounds + 1))
done
test -z "$(pids)" || echo "sweep: processes do not end: $(pids | tr '\n' ' ')" >&2

for dir in $(cgroups); do
	find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null
	test ! -d "$dir" || echo "sweep: cgroup $dir cannot be removed" >&2
done

for netns in /run/netns/"$prefix"-*; do
	test -e "$netns" || continue
	ip netns delete "${netns##*/}" || echo "sweep: network namespace $netns cannot be removed" >&2
done

for dir in "${TMPDIR:-/tmp}"/"$prefix"-*; do
	test -d "$dir" || continue
	rm -rf --one-file-system "$dir" || echo "sweep: folder $dir cannot be removed" >&2
done
exit 0
