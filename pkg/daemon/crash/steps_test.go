package crash

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// failpoints are the literals of all calls of failpoint.Hit in the packages
// that the daemon is made of.
func failpoints(t *testing.T) []string {
	t.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, top := range []string{"pkg", "cmd"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			found, err := failpointsIn(path)
			names = append(names, found...)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func failpointsIn(path string) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		return nil, err
	}
	var names []string
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) != 1 {
			return true
		}
		fun, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || fun.Sel.Name != "Hit" {
			return true
		}
		if pkg, ok := fun.X.(*ast.Ident); !ok || pkg.Name != "failpoint" {
			return true
		}
		literal, ok := call.Args[0].(*ast.BasicLit)
		if !ok {
			err = fmt.Errorf("%s: the name of a failpoint must be a literal", path)
			return false
		}
		name, unquoteErr := strconv.Unquote(literal.Value)
		err = unquoteErr
		names = append(names, name)
		return true
	})
	return names, err
}

// steps are a number of times by name.
type steps map[string]int

// passed counts the steps in the log of a traced daemon, those before it was
// ready and all of them.
func (b *bed) passed() (start, all steps) {
	start, all = steps{}, steps{}
	for line := range strings.Lines(b.traced) {
		if strings.Contains(line, `"msg":"ready"`) {
			start = maps.Clone(all)
		}
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "failpoint passed: "); ok {
			all[name]++
		}
	}
	return start, all
}

// kill is the n-th time of a step.
type kill struct {
	step string
	n    int
}

// String is what META_CNI_FAILPOINT is set to.
func (k kill) String() string { return fmt.Sprintf("%s:%d", k.step, k.n) }

// everyStep is each time of each step.
func everyStep(_, all steps) []kill { return afterStart(nil, all) }

// afterStart leaves out what the start of the daemon passes.
func afterStart(start, all steps) []kill {
	var list []kill
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for n := start[name] + 1; n <= all[name]; n++ {
			list = append(list, kill{name, n})
		}
	}
	return list
}

// everyStepOfRequests is for what may begin before the daemon is ready: it
// leaves out what only a start passes.
func everyStepOfRequests(_, all steps) []kill {
	return slices.DeleteFunc(everyStep(nil, all), func(k kill) bool {
		return ofIPAM(k) || strings.HasPrefix(k.step, "confgen-")
	})
}

// ofIPAM says that a step is one of the log or of the folder of addresses.
func ofIPAM(k kill) bool {
	return strings.HasPrefix(k.step, "wal.") || strings.HasPrefix(k.step, "dir.")
}

// ofAddresses leaves the steps of the IPAM.
func ofAddresses(start, all steps) []kill {
	return slices.DeleteFunc(afterStart(start, all), func(k kill) bool { return !ofIPAM(k) })
}

// addressesThinned leaves the last time of each other step: the scenes without
// addresses have it at all times.
func addressesThinned(start, all steps) []kill {
	return slices.DeleteFunc(afterStart(start, all), func(k kill) bool { return !ofIPAM(k) && k.n < all[k.step] })
}

// firstOfStore leaves the first time of the steps of the folder: there the
// address space is made.
func firstOfStore(start, all steps) []kill {
	return slices.DeleteFunc(afterStart(start, all), func(k kill) bool { return k.n > 1 || !strings.HasPrefix(k.step, "dir.") })
}

// report says which steps were reached, and fails for one that never was.
func report(t *testing.T, names []string, hits steps) {
	t.Helper()
	total := 0
	for _, name := range names {
		total += hits[name]
		if hits[name] == 0 && !elsewhere(name) {
			t.Errorf("failpoint %s was never reached by ADD, DEL or the start: is it dead?", name)
		}
	}
	t.Logf("%d kills at %d failpoints", total, len(names))
}

// elsewhere are steps that this test's ADD and DEL don't pass; the tests of
// their own packages do.
func elsewhere(name string) bool {
	return slices.ContainsFunc([]string{
		"kube-", "install-", "ipam-pools-", "reservation-", "whereabouts-",
		"wal.compact.", "wal.switch.", "wal.snapshot.", "wal.open.cut.", // a log of a megabyte, a torn one
		"dir.ask.", "dir.answered.", // a second node
	}, func(prefix string) bool {
		return strings.HasPrefix(name, prefix)
	})
}
