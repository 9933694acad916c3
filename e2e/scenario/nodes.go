package scenario

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/meta-cni/meta-cni/e2e/world"
)

func nodeCommands() map[string]command {
	return map[string]command{
		"node-file":          {usage: "NODE PATH exists|missing|matches|lacks [REGEXP]", min: 3, run: nodeFile},
		"node-count":         {usage: "NODE PATTERN NUMBER", min: 3, run: nodeCount},
		"node-exec":          {usage: "NODE COMMAND...", min: 2, negate: true, run: nodeExec},
		"write-node-file":    {usage: "NODE PATH FILE", min: 3, run: writeNodeFile},
		"node-ready":         {usage: "NODE...", min: 1, run: nodeReady},
		"clean":              {usage: "NODE...", min: 1, run: cleanNodes},
		"restart-containerd": {usage: "NODE", min: 1, run: restartContainerd},
		"freeze-containerd":  {usage: "NODE", min: 1, run: freezeContainerd},
		"thaw-containerd":    {usage: "NODE", min: 1, run: thawContainerd},
		"restart-kubelet":    {usage: "NODE", min: 1, run: restartKubelet},
		"reboot":             {usage: "NODE", min: 1, run: reboot},
	}
}

// nodeFile looks at files of a node; the path may be a glob pattern.
func nodeFile(ctx context.Context, c *call) error {
	n, err := c.node(c.args[0])
	if err != nil {
		return err
	}
	path, want := c.args[1], c.args[2]
	pattern := ""
	if want == "matches" || want == "lacks" {
		if len(c.args) != 4 {
			return fmt.Errorf("%s wants one pattern", want)
		}
		pattern = c.args[3]
	}
	return world.Eventually(ctx, patience, func(context.Context) error {
		files, err := filepath.Glob(n.Path(path))
		if err != nil {
			return err
		}
		if want == "missing" {
			if len(files) > 0 {
				return fmt.Errorf("%s on %s is there: %v", path, n.Name, files)
			}
			return nil
		}
		if len(files) == 0 {
			return fmt.Errorf("%s on %s is missing", path, n.Name)
		}
		return judge(files, want, pattern)
	})
}

func judge(files []string, want, pattern string) error {
	if want == "exists" {
		return nil
	}
	var content strings.Builder
	for _, file := range files {
		part, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		content.Write(part)
	}
	err := match(pattern, content.String(), files[0])
	switch want {
	case "matches":
		return err
	case "lacks":
		if err == nil {
			return fmt.Errorf("%s matches %q:\n%s", files[0], pattern, content.String())
		}
		return nil
	}
	return fmt.Errorf("want %q is none of exists, missing, matches, lacks", want)
}

// nodeCount waits until as many files of a node match a glob pattern.
func nodeCount(ctx context.Context, c *call) error {
	n, err := c.node(c.args[0])
	if err != nil {
		return err
	}
	want, err := strconv.Atoi(c.args[2])
	if err != nil {
		return err
	}
	return world.Eventually(ctx, patience, func(context.Context) error {
		files, err := filepath.Glob(n.Path(c.args[1]))
		if err == nil && len(files) != want {
			return fmt.Errorf("%d files match %s on %s, want %d: %v", len(files), c.args[1], n.Name, want, files)
		}
		return err
	})
}

func nodeExec(ctx context.Context, c *call) error {
	n, err := c.node(c.args[0])
	if err != nil {
		return err
	}
	out, err := n.Exec(ctx, c.args[1:]...)
	fmt.Fprint(c.stdout, out)
	return err
}

// writeNodeFile replaces a file on a node in one step, as a careful tool does:
// temporary file in the same folder, then rename.
func writeNodeFile(_ context.Context, c *call) error {
	n, err := c.node(c.args[0])
	if err != nil {
		return err
	}
	content := variable().ReplaceAllStringFunc(c.ts.ReadFile(c.args[2]), func(ref string) string {
		return c.ts.Getenv(strings.Trim(ref, "${}"))
	})
	temp := c.args[1] + ".tmp"
	if err := n.WriteFile(temp, []byte(content)); err != nil {
		return err
	}
	return os.Rename(n.Path(temp), n.Path(c.args[1]))
}

func nodeReady(ctx context.Context, c *call) error {
	return c.eachNode(c.args, func(n *world.Node) error { return n.WaitReady(ctx) })
}

func (st *story) eachNode(names []string, do func(*world.Node) error) error {
	for _, name := range names {
		n, err := st.world.Node(name)
		if err != nil {
			return err
		}
		if err := do(n); err != nil {
			return err
		}
	}
	return nil
}

func cleanNodes(ctx context.Context, c *call) error {
	return c.eachNode(c.args, func(n *world.Node) error { return c.clean(ctx, n) })
}

func restartContainerd(ctx context.Context, c *call) error {
	return c.eachNode(c.args[:1], func(n *world.Node) error { return n.RestartContainerd(ctx) })
}

func freezeContainerd(_ context.Context, c *call) error {
	return c.eachNode(c.args[:1], (*world.Node).FreezeContainerd)
}

func thawContainerd(_ context.Context, c *call) error {
	return c.eachNode(c.args[:1], (*world.Node).ThawContainerd)
}

func restartKubelet(_ context.Context, c *call) error {
	return c.eachNode(c.args[:1], func(n *world.Node) error { return n.RestartKubelet() })
}

func reboot(ctx context.Context, c *call) error {
	return c.eachNode(c.args[:1], func(n *world.Node) error {
		return n.Reboot(ctx)
	})
}

// fileNames lists what lies in a folder of a node; a missing folder is empty.
func fileNames(n *world.Node, pattern string, skip func(string) bool) ([]string, error) {
	dir := n.Path("/")
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, file := range files {
		info, err := os.Lstat(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !info.IsDir() && !skip(info.Name()) {
			names = append(names, strings.TrimPrefix(file, dir))
		}
	}
	return names, nil
}
