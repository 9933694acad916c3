#!/opt/cni/bin/busybox sh
# CNI plugin for tests: ADD always fails, with code 112; while the file
# fail-DEL lies in the folder below, so does DEL. Every call is recorded.
dir=/var/lib/cni/e2e
box=/opt/cni/bin/busybox
$box mkdir -p $dir
echo "fail $CNI_COMMAND $CNI_IFNAME $CNI_CONTAINERID" >>$dir/calls
case $CNI_COMMAND in
VERSION)
	echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}'
	;;
ADD)
	echo '{"cniVersion":"1.0.0","code":112,"msg":"e2e-fail refuses","details":"as the story wants"}'
	exit 1
	;;
DEL)
	test ! -e $dir/fail-DEL || {
		echo '{"cniVersion":"1.0.0","code":113,"msg":"e2e-fail keeps it"}'
		exit 1
	}
	;;
esac
