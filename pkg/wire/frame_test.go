package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func frameOf(t *testing.T, message any) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteFrame(&b, message); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestFrameRoundTrip(t *testing.T) {
	full := &Request{
		Version: 1, Plugin: "meta-cni", Command: "ADD", ContainerID: "c1", Netns: "/run/netns/x<&>\u2028",
		IfName: "eth0", Args: "IgnoreUnknown=1;K8S_POD_NAME=a", Path: "/opt/cni/bin",
		Trace: map[string]string{"TRACEPARENT": "00-1-2-01"}, Config: []byte("{not json \xff\x00"),
	}
	for _, test := range []struct {
		name string
		in   any
		out  any
	}{
		{"request", full, new(Request)},
		{"empty request", &Request{}, new(Request)},
		{"largest configuration", &Request{Config: bytes.Repeat([]byte{0xff}, MaxConfig)}, new(Request)},
		{"result", &Reply{Version: 1, Result: json.RawMessage(`{"a":"<b>","c":1.0}`)}, new(Reply)},
		{"error", &Reply{Error: &Error{CNIVersion: "1.1.0", Code: 11, Msg: "m", Details: "d"}}, new(Reply)},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := iotest.OneByteReader(bytes.NewReader(frameOf(t, test.in)))
			if err := ReadFrame(r, test.out); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.in, test.out); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWriteFrameRefuses(t *testing.T) {
	for _, test := range []struct {
		name string
		in   any
		want string
	}{
		{"too large", &Request{Config: make([]byte, MaxFrame)}, "exceeds 1 MiB"},
		{"path that JSON would change", &Request{Netns: "/run/\xff"}, `CNI_NETNS "/run/\xff" is not UTF-8`},
		{"trace that JSON would change", &Request{Trace: map[string]string{"BAGGAGE": "\xff"}}, `"BAGGAGE" is not UTF-8`},
		{"result that is no JSON", &Reply{Result: json.RawMessage("{")}, "unexpected end"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b bytes.Buffer
			err := WriteFrame(&b, test.in)
			if err == nil || !strings.Contains(err.Error(), test.want) || b.Len() > 0 {
				t.Errorf("got %v and %d bytes written, want %q and none", err, b.Len(), test.want)
			}
		})
	}
}

func TestReadFrameRefuses(t *testing.T) {
	whole := frameOf(t, &Request{Command: "ADD"})
	for _, test := range []struct {
		name string
		in   []byte
		want error
	}{
		{"nothing", nil, io.EOF},
		{"half a header", whole[:2], io.ErrUnexpectedEOF},
		{"header only", whole[:4], io.ErrUnexpectedEOF},
		{"cut off", whole[:len(whole)-1], io.ErrUnexpectedEOF},
		{"lying length", []byte{0xff, 0xff, 0xff, 0xff, '{', '}'}, ErrFrameTooLarge},
		{"one byte too many", binary.BigEndian.AppendUint32(nil, MaxFrame+1), ErrFrameTooLarge},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := ReadFrame(bytes.NewReader(test.in), new(Request)); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// allocated is how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestLyingHeaderAllocatesNothing(t *testing.T) {
	in := binary.BigEndian.AppendUint32(nil, MaxFrame)
	in = append(in, '{')
	n := allocated(func() { _ = ReadFrame(bytes.NewReader(in), new(Request)) })
	if n > 16<<10 {
		t.Errorf("5 bytes of input made %d bytes of memory", n)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte("\x00\x00\x00\x10{\"config\":\"AA==\"}"))
	f.Fuzz(func(t *testing.T, in []byte) {
		req := new(Request)
		if err := ReadFrame(bytes.NewReader(in), req); err != nil {
			return
		}
		var again bytes.Buffer
		err := WriteFrame(&again, req)
		if errors.Is(err, ErrFrameTooLarge) { // a short way to write it was read
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		whole := again.Bytes()
		for _, cut := range []int{1, 4, len(whole) - 1} {
			if err := ReadFrame(bytes.NewReader(whole[:cut]), new(Request)); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("cut at %d: %v", cut, err)
			}
		}
		back := new(Request)
		if err := ReadFrame(&again, back); err != nil {
			t.Fatal(err)
		}
		if len(req.Config) == 0 {
			req.Config = nil // omitted when empty
		}
		if len(req.Trace) == 0 {
			req.Trace = nil
		}
		if diff := cmp.Diff(req, back); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzRequestRoundTrip(f *testing.F) {
	f.Add("ADD", "c1", "/run/netns/a", "eth0", "K=V", "00-1", []byte("{}"))
	f.Add("DEL", "", "\u2028<&>", "\x00\x7f", "\xff", "", []byte("\xff\x00"))
	f.Fuzz(func(t *testing.T, command, id, netns, ifName, args, trace string, config []byte) {
		req := &Request{
			Version: 1, Command: command, ContainerID: id, Netns: netns, IfName: ifName, Args: args,
			Trace: map[string]string{"TRACEPARENT": trace},
		}
		if len(config) > 0 {
			req.Config = config
		}
		var b bytes.Buffer
		err := WriteFrame(&b, req)
		if !utf8.ValidString(command + "\x00" + id + "\x00" + netns + "\x00" + ifName + "\x00" + args + "\x00" + trace) {
			if err == nil {
				t.Fatal("text that is not UTF-8 was accepted")
			}
			return
		}
		if errors.Is(err, ErrFrameTooLarge) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		back := new(Request)
		if err := ReadFrame(&b, back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(req, back); diff != "" || b.Len() > 0 {
			t.Fatalf("%d bytes left, %s", b.Len(), diff)
		}
	})
}
