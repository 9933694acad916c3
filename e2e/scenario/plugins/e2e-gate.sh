#!/opt/cni/bin/busybox sh
# CNI plugin for tests: like bridge, but while the file hold-<command> lies in
# the folder below, it first waits, having said so by the file held-<command>.
dir=/var/lib/cni/e2e
box=/opt/cni/bin/busybox
$box mkdir -p $dir
echo "gate $CNI_COMMAND $CNI_IFNAME $CNI_CONTAINERID" >>$dir/calls
if test -e "$dir/hold-$CNI_COMMAND"; then
	: >"$dir/held-$CNI_COMMAND"
	while test -e "$dir/hold-$CNI_COMMAND"; do $box sleep 0.1; done
fi
exec /opt/cni/bin/bridge
