package daemon_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/testnet/node"
)

// BenchmarkOverhead compares an ADD of two bridge networks through meta-cni
// with the same two plugins called directly, in turn within one run. The
// metric overhead-ms is the difference of the medians; the budget is 6 ms.
func BenchmarkOverhead(b *testing.B) {
	bed := newBed(b)
	bed.Start()
	var through, direct []time.Duration
	for b.Loop() {
		s, pod := bed.sandbox("second")
		start := time.Now()
		bed.must(b, "ADD", s)
		through = append(through, time.Since(start))
		bed.must(b, "DEL", s)
		start = time.Now()
		bed.direct(b, "ADD", s)
		direct = append(direct, time.Since(start))
		bed.direct(b, "DEL", s)
		pod.Remove()
	}
	b.ReportMetric(milliseconds(median(through)), "meta-ms/op")
	b.ReportMetric(milliseconds(median(direct)), "direct-ms/op")
	b.ReportMetric(milliseconds(median(through)-median(direct)), "overhead-ms/op")
}

// direct calls the bridge plugin twice, as a runtime with two networks would.
func (b *bed) direct(tb testing.TB, command string, s node.Sandbox) {
	tb.Helper()
	for ifName, conf := range map[string]string{"eth0": strings.NewReplacer(
		`"plugins":[`, `"x":0,`, `}}]}`, `}}`, ` {"type"`, `"type"`).Replace(primaryConf), "net1": strings.Replace(secondConf, `"type"`, `"name":"direct","type"`, 1)} {
		cmd := exec.Command(filepath.Join(b.Plugins, "bridge"))
		cmd.Env = []string{
			"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + s.ContainerID, "CNI_NETNS=" + s.Netns,
			"CNI_IFNAME=" + ifName, "CNI_PATH=" + b.Plugins, "CNI_ARGS=IgnoreUnknown=1",
		}
		cmd.Stdin = strings.NewReader(strings.ReplaceAll(conf, "$DIR", b.Dir))
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := b.Exec(cmd); err != nil {
			tb.Fatalf("bridge %s: %v\n%s\n%s", command, err, out.String(), conf)
		}
	}
}

// BenchmarkStatus is the whole process of a STATUS against an idle daemon,
// which runs no delegate: the plugin's round trip. The budget is 2 ms.
func BenchmarkStatus(b *testing.B) {
	bed := newBed(b)
	bed.Start()
	var times []time.Duration
	for b.Loop() {
		times = append(times, bed.must(b, "STATUS", node.Sandbox{}).Took)
	}
	b.ReportMetric(milliseconds(median(times)), "p50-ms/op")
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// TestIdleMemory: the daemon's resident memory when idle; the budget is
// 40 MiB.
func TestIdleMemory(t *testing.T) {
	b := newBed(t)
	b.Start()
	kib := b.residentKiB(t)
	t.Logf("idle: %d KiB", kib)
	if kib > 40<<10 {
		t.Errorf("idle daemon has %d KiB, the budget is 40 MiB", kib)
	}
}

// residentKiB is the daemon's resident memory.
func (b *bed) residentKiB(tb testing.TB) int {
	tb.Helper()
	status, err := b.Run(tb.Context(), "grep", "VmRSS", fmt.Sprintf("/proc/%d/status", b.Pid()))
	if err != nil {
		tb.Fatal(err)
	}
	var kib int
	if _, err := fmt.Sscanf(status, "VmRSS: %d kB", &kib); err != nil {
		tb.Fatalf("%q: %v", status, err)
	}
	return kib
}

// BenchmarkAddress is the whole process of meta-ipam as a delegate runs it, in
// a block that the node holds: ADD and DEL, log and sync included, beside an
// empty program of this machine. The budget of the ADD is 4 ms.
func BenchmarkAddress(b *testing.B) {
	bed := newBed(b)
	bed.script(b, "hold", `test "$CNI_COMMAND" = ADD || exit 0
touch $DIR/held; until test -e $DIR/go; do sleep 0.05; done; echo '{"cniVersion":"1.0.0"}'`)
	bed.Network("held", `{"cniVersion":"1.0.0","type":"hold"}`)
	bed.Start()
	s, _ := bed.sandbox("held")
	ended := make(chan node.Reply, 1)
	go func() { ended <- bed.Plugin("ADD", s) }()
	eventually(b, "the delegate holds its ADD", 10*time.Second, func() bool {
		_, err := os.Stat(filepath.Join(bed.Dir, "held"))
		return err == nil
	})
	var adds, dels, empty []time.Duration
	bed.address(b, "ADD", s, "warm")
	for i := 0; b.Loop(); i++ {
		ifName := fmt.Sprintf("if%d", i)
		adds = append(adds, bed.address(b, "ADD", s, ifName))
		dels = append(dels, bed.address(b, "DEL", s, ifName))
		start := time.Now()
		if err := exec.Command("/bin/true").Run(); err != nil {
			b.Fatal(err)
		}
		empty = append(empty, time.Since(start))
	}
	b.ReportMetric(milliseconds(median(adds)), "add-ms/op")
	b.ReportMetric(milliseconds(median(dels)), "del-ms/op")
	b.ReportMetric(milliseconds(median(empty)), "true-ms/op")
	bed.Write("go", "")
	if reply := <-ended; reply.Err != nil {
		b.Fatal(reply.Err)
	}
	bed.must(b, "DEL", s)
}

// address calls meta-ipam as a plugin that the daemon runs would.
func (b *bed) address(tb testing.TB, command string, s node.Sandbox, ifName string) time.Duration {
	tb.Helper()
	cmd := exec.Command(filepath.Join(string(binaries), "meta-ipam"))
	cmd.Env = []string{
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + s.ContainerID, "CNI_NETNS=" + s.Netns, "CNI_IFNAME=" + ifName,
		"CNI_PATH=" + b.Plugins, "META_CNI_SOCKET=" + filepath.Join(b.Dir, "run", "meta-cni.sock"),
	}
	cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0","name":"held","ipam":{"type":"meta-ipam","range":"10.77.0.0/16","cooldown":"1s"}}`)
	var out bytes.Buffer
	cmd.Stdout = &out
	start := time.Now()
	if err := cmd.Run(); err != nil {
		tb.Fatalf("meta-ipam %s: %v\n%s", command, err, out.String())
	}
	return time.Since(start)
}
