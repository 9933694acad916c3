package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/wire"
)

func TestRequestCarriesTheWholeCall(t *testing.T) {
	w := newWorld(t)
	w.serve(t, echo)
	trace := map[string]string{"TRACEPARENT": "00-0af7-b7ad-01", "TRACESTATE": "a=b", "BAGGAGE": "k=v"}
	for _, name := range []string{wire.PluginMeta, wire.PluginRouted, wire.PluginVXLAN, wire.PluginIPAM, wire.PluginWhereabouts} {
		for _, command := range []string{"ADD", "DEL", "CHECK", "STATUS", "GC"} {
			t.Run(name+" "+command, func(t *testing.T) {
				in := w.conf(t, map[string]any{"prevResult": map[string]any{"x": "<&>"}})
				e := env(command, "CNI_NETNS_OVERRIDE=1", "META_CNI_SOCKET="+w.socket, "OTHER=x")
				for k, v := range trace {
					e[k] = v
				}
				o := call{name: name, env: e, stdin: in}.run(t)
				var got wire.Request
				if err := json.Unmarshal([]byte(o.stdout), &got); err != nil || o.code != 0 {
					t.Fatalf("exit %d: %v: %q", o.code, err, o.stdout)
				}
				want := wire.Request{
					Version: 1, Plugin: name, Command: command, ContainerID: "c1", Netns: "/run/netns/a", IfName: "eth0",
					Args: "IgnoreUnknown=1", Path: "/opt/cni/bin", Trace: trace, Config: []byte(in),
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestAnswersPassUnchanged(t *testing.T) {
	result := `{"cniVersion":"1.0.0","interfaces":[{"name":"a<b>&\u2028"}],"n":1.0}`
	for _, test := range []struct {
		name    string
		command string
		reply   wire.Reply
		want    string
		code    int
	}{
		{"result", "ADD", wire.Reply{Result: json.RawMessage(result)}, result + "\n", 0},
		{"nothing", "DEL", wire.Reply{}, "", 0},
		{
			"try again", "ADD",
			wire.Reply{Error: &wire.Error{CNIVersion: "1.0.0", Code: 11, Msg: "m", Details: "d"}},
			`{"cniVersion":"1.0.0","code":11,"msg":"m","details":"d"}` + "\n", 1,
		},
		{
			"not available", "STATUS",
			wire.Reply{Error: &wire.Error{CNIVersion: "1.1.0", Code: 50, Msg: "m"}},
			`{"cniVersion":"1.1.0","code":50,"msg":"m"}` + "\n", 1,
		},
		{"limited", "STATUS", wire.Reply{Error: &wire.Error{Code: 51, Msg: "m"}}, `{"cniVersion":"1.1.0","code":51,"msg":"m"}` + "\n", 1},
		{
			"a delegate's own code in DEL", "DEL",
			wire.Reply{Error: &wire.Error{Code: 117, Msg: "m"}},
			`{"cniVersion":"1.1.0","code":117,"msg":"m"}` + "\n", 1,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.serve(t, func(_ context.Context, _ *wire.Request, reply func(*wire.Reply) error) { _ = reply(&test.reply) })
			o := call{env: env(test.command), stdin: w.conf(t, nil)}.run(t)
			if o.stdout != test.want || o.code != test.code || o.stderr != "" {
				t.Errorf("exit %d, %q, %q: want %d, %q", o.code, o.stdout, o.stderr, test.code, test.want)
			}
			if entries := w.spooled(t); len(entries) > 0 {
				t.Error("an answered request is on the spool:", entries)
			}
		})
	}
}

func TestVersionNeedsNoDaemon(t *testing.T) {
	for _, test := range []struct{ name, stdin, version string }{
		{"as libcni asks", `{"cniVersion":"1.0.0"}`, "1.0.0"},
		{"no configuration", "", "1.1.0"},
		{"version of the future", `{"cniVersion":"9.0.0"}`, "1.1.0"},
		{"undecodable", `{`, "1.1.0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := call{env: map[string]string{"CNI_COMMAND": "VERSION"}, stdin: test.stdin}.run(t)
			o.wantOK(t, `{"cniVersion":"`+test.version+`","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}`+"\n")
		})
	}
}

func TestCallsThatAreRefused(t *testing.T) {
	w := newWorld(t) // no daemon: these answer before they would need one
	good := w.conf(t, nil)
	for _, test := range []struct {
		name string
		call call
		code uint
		text string
	}{
		{"no command", call{env: env("")}, 4, "container runtime"},
		{"unknown command", call{env: env("PING")}, 4, `"PING" is unknown`},
		{"unknown name", call{name: "other", env: env("ADD")}, 4, `called as "other"`},
		{"ADD without its variables", call{env: map[string]string{"CNI_COMMAND": "ADD"}, stdin: good}, 4, "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"},
		{"CHECK without a namespace", call{env: env("CHECK", "CNI_NETNS"), stdin: good}, 4, "CNI_NETNS"},
		{"DEL without a container", call{env: env("DEL", "CNI_CONTAINERID"), stdin: good}, 4, "CNI_CONTAINERID"},
		{"container that is a path", call{env: env("ADD", "CNI_CONTAINERID=../x"), stdin: good}, 4, `"../x"`},
		{"interface that is a path", call{env: env("ADD", "CNI_IFNAME=a/b"), stdin: good}, 4, `"a/b"`},
		{"interface too long", call{env: env("ADD", "CNI_IFNAME=abcdefghijklmnop"), stdin: good}, 4, "15 bytes"},
		{"text that is not UTF-8", call{env: env("ADD", "CNI_NETNS=/\xff"), stdin: good}, 4, "not UTF-8"},
		{"environment too large", call{env: largeEnv(), stdin: good}, 4, "exceeds 1 MiB"},
		{"no configuration", call{env: env("ADD")}, 6, "cannot be decoded"},
		{"undecodable configuration", call{env: env("ADD"), stdin: "{"}, 6, "cannot be decoded"},
		{"wrong type", call{env: env("ADD"), stdin: `{"cniVersion":"1.1.0","socket":5}`}, 6, "socket"},
		{"huge configuration", call{env: env("ADD"), stdin: strings.Repeat(" ", 5<<20)}, 6, "exceeds"},
		{"old version", call{env: env("ADD"), stdin: `{"cniVersion":"0.2.0"}`}, 1, "0.3.1, 0.4.0, 1.0.0, 1.1.0"},
		{"STATUS in an old version", call{env: env("STATUS"), stdin: `{"cniVersion":"1.0.0"}`}, 1, "STATUS needs cniVersion 1.1.0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.call.run(t).wantError(t, test.code, test.text)
		})
	}
}

// largeEnv does not fit a frame, as no one variable can (the kernel's limit is
// 128 KiB each).
func largeEnv() map[string]string {
	e := env("DEL")
	for _, name := range []string{"CNI_ARGS", "CNI_PATH", "CNI_NETNS", "TRACEPARENT", "TRACESTATE", "BAGGAGE"} {
		e[name] = strings.Repeat("\x01", 120<<10) // six bytes each in JSON
	}
	return e
}

func TestEachNameReadsTheKeysThatAreItsOwn(t *testing.T) {
	const in = `{"cniVersion":"1.0.0","socket":"/s","stateDir":"/d","mode":"thin","daemonBinary":"/b"}`
	for _, test := range []struct {
		name string
		want conf
	}{
		{wire.PluginMeta, conf{"1.0.0", "/s", "/d", "thin", "/b"}},
		{wire.PluginRouted, conf{CNIVersion: "1.0.0"}},
		{wire.PluginVXLAN, conf{CNIVersion: "1.0.0"}},
		{wire.PluginIPAM, conf{CNIVersion: "1.0.0"}},
		{wire.PluginWhereabouts, conf{CNIVersion: "1.0.0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, problem := parseConf(test.name, []byte(in))
			if diff := cmp.Diff(test.want, got); diff != "" || problem != nil {
				t.Error(problem, diff)
			}
		})
	}
}

func TestNamesOfThings(t *testing.T) {
	for _, test := range []struct {
		name        string
		in          string
		asContainer bool
		asInterface bool
	}{
		{"plain", "eth0", true, true},
		{"empty", "", false, false},
		{"dot", ".", false, false},
		{"two dots", "..", false, false},
		{"dot inside", "a.b", true, true},
		{"dash first", "-a", false, true},
		{"slash", "a/b", false, false},
		{"colon", "a:b", false, false},
		{"space", "a b", false, false},
		{"newline", "a\n", false, false},
		{"fifteen", "abcdefghijklmno", true, true},
		{"sixteen", "abcdefghijklmnop", true, false},
		{"percent", "a%b", false, false},
		{"not ASCII", "é", false, false},
		{"the daemon's limit", strings.Repeat("a", 200), true, false},
		{"beyond the daemon's limit", strings.Repeat("a", 201), false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := validContainerID(test.in); got != test.asContainer {
				t.Error("container:", got)
			}
			if got := validIfName(test.in); got != test.asInterface {
				t.Error("interface:", got)
			}
		})
	}
}

func FuzzParseConf(f *testing.F) {
	f.Add("meta-cni", []byte(`{"cniVersion":"1.1.0","socket":"/s","mode":"thin"}`))
	f.Add("meta-ipam", []byte(`{"socket":5,"stateDir":"/d"}`))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		c, problem := parseConf(name, data)
		if problem != nil && problem.Code != wire.CodeDecodingFailure {
			t.Fatal(problem)
		}
		if name != wire.PluginMeta && c != (conf{CNIVersion: c.CNIVersion}) {
			t.Fatalf("%s took paths from a configuration that anybody may have written: %+v", name, c)
		}
	})
}
