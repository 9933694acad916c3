package ipam

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/cli"
)

// bigCluster answers lists of many objects: pods of six kilobytes, and a claim
// of each.
type bigCluster struct{ pods int }

func (c bigCluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	after, _ := strconv.Atoi(r.URL.Query().Get("continue")) // none is 0
	n, item := 0, func(int) string { return "" }
	address := func(i int) string { return fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255) }
	switch last := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]; last {
	case "pods":
		ballast := strings.Repeat("x", 5000)
		n, item = c.pods, func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"pod-%d","namespace":"apps","uid":"uid-%d","annotations":{"other":%q,"k8s.v1.cni.cncf.io/network-status":"[{\"name\":\"apps/lan\",\"interface\":\"net1\",\"ips\":[\"%s\"]}]"}},"spec":{"nodeName":"n1"},"status":{"phase":"Running"}}`, i, i, ballast, address(i))
		}
	case "ipclaims":
		n, item = c.pods, func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"default.%[2]s","uid":"c-%[1]d","resourceVersion":"%[1]d"},"spec":{"space":"default","address":"%[2]s","state":"Bound","node":{"name":"n1","uid":"u1","boot":"b1","log":"l1"},"owner":{"containerID":"%064[1]d","ifName":"net1","network":"lan","podNamespace":"apps","podName":"pod-%[1]d","podUID":"uid-%[1]d"}}}`, i, address(i))
		}
	case "ipblocks":
		n, item = (c.pods+63)/64, func(i int) string {
			return fmt.Sprintf(`{"metadata":{"name":"default.%[1]s-26"},"spec":{"space":"default","prefix":"%[1]s/26","mode":"Shared"}}`, address(i*64))
		}
	case "nodes":
		n, item = 1, func(int) string { return `{"metadata":{"name":"n1","uid":"u1"}}` }
	case "addressspaces":
		n, item = 1, func(int) string { return `{"metadata":{"name":"default"},"spec":{"grid":{"v4":26,"v6":122}}}` }
	case "ippools":
		n, item = 1, func(int) string {
			return `{"metadata":{"name":"lan"},"spec":{"addressSpace":"default","ranges":[{"range":"10.0.0.0/8"}]}}`
		}
	}
	out := bufio.NewWriter(w)
	defer out.Flush() //nolint:errcheck // the client sees a short answer
	next := min(n, after+pageSize)
	more := ""
	if next < n {
		more = strconv.Itoa(next)
	}
	fmt.Fprintf(out, `{"metadata":{"continue":%q},"items":[`, more)
	for i := after; i < next; i++ {
		if i > after {
			fmt.Fprint(out, ",")
		}
		fmt.Fprint(out, item(i))
	}
	fmt.Fprint(out, "]}")
}

// BenchmarkCheck is one check of a cluster of 20,000 pods; heap-B/pod is what
// is kept of each.
func BenchmarkCheck(b *testing.B) {
	const pods = 20_000
	server := httptest.NewServer(bigCluster{pods})
	defer server.Close()
	kubeconfig := filepath.Join(b.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], clusters: [{name: c, cluster: {server: "%s"}}]}`, server.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		var seen bytes.Buffer
		e := &env{Streams: cli.Streams{In: strings.NewReader(""), Out: &seen, Err: &seen}, cluster: cli.Cluster{Kubeconfig: kubeconfig}, now: time.Now}
		s, err := e.open()
		if err != nil {
			b.Fatal(err)
		}
		c := &checker{source: s, now: e.now()}
		if err := c.look(b.Context()); err != nil {
			b.Fatal(err)
		}
		s.close()
		if len(c.findings) > 0 || c.looked.Pods != pods || c.looked.Claims != pods {
			b.Fatalf("%+v %+v", c.looked, c.findings)
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		b.ReportMetric(float64(m.HeapAlloc)/pods, "heap-B/pod")
		runtime.KeepAlive(c)
	}
}
