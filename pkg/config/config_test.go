package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

func TestParseDaemonDefaults(t *testing.T) {
	d, err := ParseDaemon([]byte("mode: standalone\nconfDir: /c\n"))
	if err != nil {
		t.Fatal(err)
	}
	if d.Mode != Standalone || d.RunDir != DefaultRunDir || d.DelegateTimeout.Duration != 30*time.Second {
		t.Errorf("defaults are wrong: %+v", d)
	}
	if diff := cmp.Diff([]string{"/c"}, d.NetworkDirs); diff != "" {
		t.Errorf("networkDirs (-want +got):\n%s", diff)
	}
}

func TestParseDaemonRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"unknown key":     {"confDirr: /x", `unknown field "confDirr"`},
		"relative folder": {"stateDir: var", `stateDir: "var" must be an absolute path`},
		"unknown mode":    {"mode: cluster", `mode: "cluster" is unknown`},
		"old version":     {"cniVersion: 0.4.0", `cniVersion: "0.4.0"`},
		"two pins":        {"primary: {file: a.conf, network: b}", "both set"},
		"pin with folder": {"primary: {file: ../a.conf}", "without a folder"},
		"timeout":         {"delegateTimeout: 90s", "delegateTimeout: 1m30s is out of range"},
		"log level":       {"logLevel: loud", `logLevel: "loud"`},
		"workers":         {"workers: -1", "workers: -1"},
		"networks":        {"limits: {maxNetworksPerPod: 4000}", "maxNetworksPerPod"},
		"annotation":      {"limits: {maxAnnotationBytes: 400000}", "maxAnnotationBytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseDaemon([]byte(tc.in))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestNetConfPodAnnotations(t *testing.T) {
	c, err := ParseNetConf([]byte(`{"cniVersion":"1.1.0","name":"meta-cni","type":"meta-cni",
		"runtimeConfig":{"io.kubernetes.cri.pod-annotations":{"a":"b"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	got, ok, err := c.PodAnnotations()
	if err != nil || !ok {
		t.Fatalf("ok = %v, err = %v", ok, err)
	}
	if diff := cmp.Diff(map[string]string{"a": "b"}, got); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
}

func TestNetConfRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"not JSON":     {"{", "standard input"},
		"unknown mode": {`{"mode":"fat"}`, `mode: "fat"`},
		"folder":       {`{"primary":"a/b"}`, "without a folder"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ParseNetConf([]byte(tc.in))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error = %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestParseArgs(t *testing.T) {
	got, err := ParseArgs("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=a;K8S_POD_UID=u;IP=")
	if err != nil {
		t.Fatal(err)
	}
	want := [][2]string{
		{"IgnoreUnknown", "1"},
		{"K8S_POD_NAMESPACE", "ns"},
		{"K8S_POD_NAME", "a"},
		{"K8S_POD_UID", "u"},
		{"IP", ""},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pairs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(attach.Pod{Namespace: "ns", Name: "a", UID: "u"}, PodFromArgs(got)); diff != "" {
		t.Errorf("pod (-want +got):\n%s", diff)
	}
	if _, err := ParseArgs("A=1;B"); err == nil {
		t.Error("a pair without = was accepted")
	}
}
