package exec

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/attach"
	"github.com/meta-cni/meta-cni/pkg/journal"
)

func TestEnvironment(t *testing.T) {
	t.Setenv("SECRET", "of the daemon")
	t.Setenv("CNI_NETNS_OVERRIDE", "yes")
	b := newBench(t, nil)
	call := b.call(list("1.0.0", `"type":"one"`))
	call.Trace = map[string]string{"TRACEPARENT": "00-abc-def-01"}
	if _, err := b.Add(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	got := b.calls()[0]
	want := map[string]string{
		"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0",
		"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=pod", "CNI_PATH": b.bin, "PATH": os.Getenv("PATH"),
		"TRACEPARENT": "00-abc-def-01", "META_CNI_SOCKET": "/run/test.sock",
	}
	if diff := cmp.Diff(want, got.Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if got.Cwd != "/" {
		t.Errorf("it runs in %s", got.Cwd)
	}
}

// Each process is reported while it waits for its configuration, as the leader
// of its own group.
func TestStartedComesBeforeTheConfiguration(t *testing.T) {
	b := newBench(t, nil)
	call := b.call(list("1.0.0", `"type":"one"`, `"type":"two"`))
	var reported []journal.Process
	call.Started = func(p *journal.Process) error {
		name := []string{"one", "two"}[len(reported)]
		await(t, name+" runs", func() bool { return exists(b.path("running-" + name)) })
		if got := len(b.calls()); got != len(reported) {
			t.Errorf("%d plugins had their configuration before %s was reported", got, name)
		}
		if st, err := readStat(p.Group); err != nil || st.group != p.Group || st.start != p.StartTime {
			t.Errorf("%s: reported %+v, is %+v, %v", name, p, st, err)
		}
		reported = append(reported, *p)
		return nil
	}
	if _, err := b.Add(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	for i, c := range b.calls() {
		if c.Pid != reported[i].Group {
			t.Errorf("process %d of %s was reported as %d", c.Pid, c.Plugin, reported[i].Group)
		}
	}
	call.Started = func(p *journal.Process) error { reported = append(reported, *p); return nil }
	if err := b.Check(t.Context(), call); err != nil || len(reported) != 2 {
		t.Errorf("CHECK: %v, %d reported: it changes nothing", err, len(reported)-2)
	}
	if err := b.Del(t.Context(), call); err != nil || len(reported) != 4 {
		t.Fatalf("DEL: %v, %d reported", err, len(reported)-2)
	}
	for i, c := range b.calls()[4:] {
		if c.Pid != reported[i+2].Group {
			t.Errorf("process %d of %s was reported as %d", c.Pid, c.Plugin, reported[i+2].Group)
		}
	}
}

func TestStartedFails(t *testing.T) {
	b := newBench(t, nil)
	full := errors.New("disk is full")
	call := b.call(list("1.0.0", `"type":"one"`, `"type":"two"`))
	call.Started = func(*journal.Process) error { return full }
	if _, err := b.Add(t.Context(), call); !errors.Is(err, full) {
		t.Errorf("error %v, want %v", err, full)
	}
	if got := b.calls(); got != nil || exists(b.path("running-two")) {
		t.Errorf("plugins were called: %v", got)
	}
	if !exists(b.path("starved-one")) {
		t.Error("the plugin didn't see the end of an empty configuration")
	}
}

func TestPrevResultComesFromTheCaller(t *testing.T) {
	const moved = `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mtu":1400}],"ips":[{"interface":0,"address":"10.1.0.2/24"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.2.0.1"}],"dns":{}}`
	tests := []struct{ version, want string }{
		{"1.1.0", `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mtu":1400}],"ips":[{"interface":0,"address":"10.1.0.2/24"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.2.0.1"}]}`},
		{"1.0.0", `{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mtu":1400}],"ips":[{"interface":0,"address":"10.1.0.2/24"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.2.0.1"}]}`},
		{"0.4.0", `{"cniVersion":"0.4.0","interfaces":[{"name":"eth0"}],"ips":[{"version":"4","interface":0,"address":"10.1.0.2/24"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.2.0.1"}],"dns":{}}`},
		{"0.3.1", `null`},
	}
	for _, tt := range tests {
		t.Run(tt.version, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			call := b.call(list(tt.version, `"type":"one"`, `"type":"two"`))
			if _, err := b.Add(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			call.Previous = json.RawMessage(moved)
			if err := b.Check(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			if err := b.Del(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			want := []string{"ADD one", "ADD two", "CHECK one", "CHECK two", "DEL two", "DEL one"}
			if tt.version == "0.3.1" {
				want = []string{"ADD one", "ADD two", "DEL two", "DEL one"}
			}
			var got []string
			for _, c := range b.calls() {
				got = append(got, c.Command+" "+c.Plugin)
				if c.Command != "ADD" {
					wantJSON(t, c.Command+" "+c.Plugin, tt.want, keyOf(t, c.Stdin, "prevResult"))
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
			if left, err := filepath.Glob(b.cache + "/*"); err != nil || left != nil {
				t.Errorf("the cache holds %v, %v", left, err)
			}
		})
	}
}

// Without a result from the caller (an ADD that failed) there is none.
func TestDelAfterFailedAdd(t *testing.T) {
	b := newBench(t, nil)
	call := b.call(list("1.0.0", `"type":"two"`, does("ADD", behaviour{Exit: 1})))
	if _, err := b.Add(t.Context(), call); err == nil {
		t.Fatal("ADD succeeded")
	}
	if err := b.Del(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	got := b.calls()
	if len(got) != 4 || keyOf(t, got[3].Stdin, "prevResult") != "null" {
		t.Errorf("calls %+v", got)
	}
}

// A plugin sees what its own configuration declares and nothing else.
func TestCapabilitiesArePerPlugin(t *testing.T) {
	b := newBench(t, nil)
	call := b.call(list("1.0.0", `"type":"one","capabilities":{"mac":true,"ips":false}`, `"type":"two","capabilities":{"portMappings":true}`, `"type":"one"`))
	call.Plan.Delegates[0].Capabilities = map[string]json.RawMessage{
		"mac": json.RawMessage(`"02:00:00:00:00:01"`), "ips": json.RawMessage(`["10.0.0.1"]`),
		"portMappings": json.RawMessage(`[{"hostPort":8080}]`), "bandwidth": json.RawMessage(`{"ingressBurst":34359738359}`),
	}
	if _, err := b.Add(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{`{"mac":"02:00:00:00:00:01"}`, `{"portMappings":[{"hostPort":8080}]}`, `null`} {
		wantJSON(t, "runtimeConfig", want, keyOf(t, b.calls()[i].Stdin, "runtimeConfig"))
	}
}

func TestResultsAreConverted(t *testing.T) {
	const want = `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/x"}],"ips":[{"interface":0,"address":"10.1.0.2/24","gateway":"10.1.0.1"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.0.0.10"]}}`
	tests := []struct{ name, version, print, want string }{
		{"0.3.1", "0.3.1", `{"cniVersion":"0.3.1","interfaces":[{"name":"eth0","sandbox":"/run/netns/x"}],"ips":[{"version":"4","interface":0,"address":"10.1.0.2/24","gateway":"10.1.0.1"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.0.0.10"]}}`, want},
		{"0.4.0", "0.4.0", `{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/x"}],"ips":[{"version":"4","interface":0,"address":"10.1.0.2/24","gateway":"10.1.0.1"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.0.0.10"]}}`, want},
		{"1.0.0", "1.0.0", strings.Replace(want, "1.1.0", "1.0.0", 1), want},
		{"1.1.0", "1.1.0", want, want},
		{"no version", "1.0.0", `{"interfaces":[{"name":"eth0"}]}`, `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}]}`},
		{"older than asked for", "1.0.0", `{"cniVersion":"0.3.1","interfaces":[{"name":"eth0"}]}`, `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}]}`},
		{"no address, another name (F50)", "1.0.0", `{"cniVersion":"1.0.0","interfaces":[{"name":"vf7"}]}`, `{"cniVersion":"1.1.0","interfaces":[{"name":"vf7"}]}`},
		{"empty", "1.0.0", `{"cniVersion":"1.0.0"}`, `{"cniVersion":"1.1.0"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			got, err := b.Add(t.Context(), b.call(list(tt.version, does("ADD", behaviour{Print: tt.print}))))
			if err != nil {
				t.Fatal(err)
			}
			wantJSON(t, "result", tt.want, string(got))
		})
	}
}

func TestCheckThatCannotBeAsked(t *testing.T) {
	b := newBench(t, nil)
	conf := `{"cniVersion":"1.0.0","name":"net","disableCheck":true,"plugins":[{"type":"one"}]}`
	for _, conf := range []string{list("0.3.1", `"type":"one"`), conf} {
		if err := b.Check(t.Context(), b.call(conf)); err != nil {
			t.Error(err)
		}
	}
	if got := b.calls(); got != nil {
		t.Errorf("plugins were called: %+v", got)
	}
}

// What DEL needs comes back from libcni's cache when a journal file is lost.
func TestRemembered(t *testing.T) {
	b := newBench(t, nil)
	call := b.call(list("0.4.0", `"type":"one","capabilities":{"bandwidth":true}`))
	call.Plan.Delegates[0].Capabilities = map[string]json.RawMessage{"bandwidth": json.RawMessage(`{"ingressBurst":34359738359}`)}
	result, err := b.Add(t.Context(), call)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []attach.Key{{ContainerID: "c1-1", IfName: "eth0"}, {ContainerID: "c1", IfName: "eth1"}} {
		other := b.call(list("0.4.0", `"type":"one"`))
		other.Plan.Key, other.Plan.Delegates[0].IfName = key, key.IfName
		if _, err := b.Add(t.Context(), other); err != nil {
			t.Fatal(err)
		}
	}
	got, err := b.Remembered(call.Plan.Key)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Memory{{Delegate: call.Plan.Delegates[0], Netns: call.Netns}}, got); diff != "" {
		t.Fatalf("-added +remembered:\n%s", diff)
	}
	remembered, err := b.RememberedResult(call.Plan.Key, got[0].Delegate)
	if err != nil {
		t.Fatal(err)
	}
	wantJSON(t, "result", string(result), string(remembered))
	if unknown, err := b.RememberedResult(attach.Key{ContainerID: "c2", IfName: "eth0"}, got[0].Delegate); unknown != nil || err != nil {
		t.Errorf("of an unknown container: %s, %v", unknown, err)
	}
	// The DEL made of it reaches the plugin as the original would.
	call.Plan.Delegates = []attach.Delegate{got[0].Delegate}
	if err := b.Del(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	if again, err := b.Remembered(call.Plan.Key); err != nil || len(again) != 0 {
		t.Errorf("after DEL: %v, %v", again, err)
	}
}

func TestRememberedWithDamage(t *testing.T) {
	b := newBench(t, nil)
	key := attach.Key{ContainerID: "c1", IfName: "eth0"}
	if got, err := b.Remembered(key); err != nil || len(got) != 0 {
		t.Errorf("without a folder: %v, %v", got, err)
	}
	b.must(os.MkdirAll(b.cache+"/c1@eth0/results/folder", 0o700))
	for name, content := range map[string]string{"eth0": "", "eth1": "{", "eth2": `{"kind":"other"}`, "%eth3": "half"} {
		b.must(os.WriteFile(filepath.Join(b.cache, "c1@eth0", "results", name), []byte(content), 0o600))
	}
	if got, err := b.Remembered(key); err != nil || len(got) != 0 {
		t.Errorf("of damaged files: %v, %v", got, err)
	}
	if got, err := b.Remembered(attach.Key{ContainerID: "../x", IfName: "eth0"}); err == nil {
		t.Errorf("outside of the cache: %v", got)
	}
	// libcni failed a DEL for ever on such a file (cni#1171).
	call := b.call(list("1.0.0", `"type":"one"`))
	if err := b.Del(t.Context(), call); err != nil {
		t.Error(err)
	}
	call.Plan.Delegates = []attach.Delegate{{Conf: []byte("{")}}
	if err := b.Del(t.Context(), call); err == nil {
		t.Error("a broken configuration passes")
	}
}

func keyOf(t testing.TB, object json.RawMessage, key string) string {
	t.Helper()
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(object, &keys); err != nil {
		t.Fatal(err)
	}
	if value, ok := keys[key]; ok {
		return string(value)
	}
	return "null"
}

func wantJSON(t testing.TB, what, want, got string) {
	t.Helper()
	var w, g any
	if err := errors.Join(json.Unmarshal([]byte(want), &w), json.Unmarshal([]byte(got), &g)); err != nil {
		t.Errorf("%s %q: %v", what, got, err)
		return
	}
	if diff := cmp.Diff(w, g); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}
