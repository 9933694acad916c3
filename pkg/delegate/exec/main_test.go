package exec

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// TestMain is the test and, where CNI_COMMAND is set, the plugin that the test
// runs: one binary, linked under the name of each plugin.
func TestMain(m *testing.M) {
	if os.Getenv("CNI_COMMAND") != "" {
		os.Exit(pluginMain())
	}
	if verb := os.Getenv("EXEC_TEST_DAEMON"); verb != "" {
		os.Exit(daemonMain(verb))
	}
	goleak.VerifyTestMain(m)
}

// invocation is what the plugin writes down of each of its runs.
type invocation struct {
	Plugin  string            `json:"plugin"`
	Command string            `json:"command"`
	Pid     int               `json:"pid"`
	Cwd     string            `json:"cwd"`
	Env     map[string]string `json:"env"`
	Stdin   json.RawMessage   `json:"stdin"`
}

// behaviour is read from the key "test" of the plugin's configuration.
type behaviour struct {
	// On is the command that it is about; the plugin succeeds in all others.
	On string `json:"on"`
	// Do is a key of the table in misbehave.
	Do string `json:"do"`
	// Print is written to standard output, whatever it is.
	Print string `json:"print"`
	// Complain is written to standard error.
	Complain string `json:"complain"`
	Exit     int    `json:"exit"`
}

// pluginMain leaves "running-<type>" beside itself before it reads its
// configuration, and a line of "calls" after.
func pluginMain() int {
	dir, name := filepath.Split(os.Args[0])
	mark(dir+"running-"+name, "")
	stdin, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	if len(stdin) == 0 {
		mark(dir+"starved-"+name, "")
		return 1
	}
	var conf struct {
		CNIVersion string    `json:"cniVersion"`
		Test       behaviour `json:"test"`
	}
	if err := json.Unmarshal(stdin, &conf); err != nil {
		panic(err)
	}
	note(dir+"calls", invocation{
		Plugin: name, Command: os.Getenv("CNI_COMMAND"), Pid: os.Getpid(), Cwd: cwd(), Env: environ(), Stdin: stdin,
	})
	if conf.Test.On == os.Getenv("CNI_COMMAND") {
		return misbehave(dir, conf.Test)
	}
	if os.Getenv("CNI_COMMAND") == "ADD" {
		fmt.Fprintf(os.Stdout, `{"cniVersion":%q,"interfaces":[{"name":%q}]}`, conf.CNIVersion, os.Getenv("CNI_IFNAME"))
	}
	return 0
}

func misbehave(dir string, b behaviour) int {
	switch b.Do {
	case "hang":
		// Without a handler of some signal the runtime would see a deadlock.
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
		select {}
	case "tidy up":
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, syscall.SIGTERM)
		mark(dir+"waiting", "")
		<-asked
		mark(dir+"tidied", "")
	case "hang for ever":
		signal.Ignore(syscall.SIGTERM)
		mark(dir+"child", fmt.Sprint(leaveChild()))
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
		select {}
	case "leave a child":
		mark(dir+"child", fmt.Sprint(leaveChild()))
	case "flood":
		signal.Ignore(syscall.SIGTERM)
		for line := []byte(strings.Repeat("y\n", 16<<10)); ; {
			if _, err := os.Stdout.Write(line); err != nil {
				return 1
			}
		}
	case "crash":
		fmt.Fprint(os.Stderr, b.Complain)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	fmt.Fprint(os.Stderr, b.Complain)
	fmt.Fprint(os.Stdout, b.Print)
	return b.Exit
}

// leaveChild starts a process that holds standard input, output and error.
func leaveChild() int {
	cmd := osexec.Command("/bin/sleep", "3600")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	return cmd.Process.Pid
}

// mark makes a file whole at once.
func mark(path, content string) {
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		panic(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		panic(err)
	}
}

func note(path string, what invocation) {
	line, err := json.Marshal(what)
	if err != nil {
		panic(err)
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	if _, err := file.Write(append(line, '\n')); err != nil {
		panic(err)
	}
}

func cwd() string {
	dir, err := os.Readlink("/proc/self/cwd")
	if err != nil {
		panic(err)
	}
	return dir
}

func environ() map[string]string {
	env := map[string]string{}
	for _, pair := range os.Environ() {
		key, value, _ := strings.Cut(pair, "=")
		env[key] = value
	}
	return env
}
