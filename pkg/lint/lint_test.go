package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// root is the repository as seen from this folder.
const root = "../.."

// goFiles are the project's own Go files, relative to root.
func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
			return filepath.SkipDir
		}
		if filepath.Ext(name) == ".go" {
			relative, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			files = append(files, relative)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// floors are the globs of .golangci.yml that put packages on a floor.
func floors(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, ".golangci.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var conf struct {
		Linters struct {
			Settings struct {
				Depguard struct {
					Rules map[string]struct {
						Files []string `json:"files"`
					} `json:"rules"`
				} `json:"depguard"`
			} `json:"settings"`
		} `json:"linters"`
	}
	if err := yaml.Unmarshal(data, &conf); err != nil {
		t.Fatal(err)
	}
	var globs []string
	for name, rule := range conf.Linters.Settings.Depguard.Rules {
		if strings.HasPrefix(name, "floor-") || slices.Contains([]string{"plugin", "wire", "failpoint"}, name) {
			globs = append(globs, rule.Files...)
		}
	}
	return globs
}

// covers is depguard's match for the few forms of globs that we use.
func covers(glob, file string) bool {
	glob = strings.TrimPrefix(glob, "**/")
	pattern := regexp.QuoteMeta(glob)
	pattern = strings.ReplaceAll(pattern, `/\*\*`, `/.+`)
	pattern = strings.ReplaceAll(pattern, `\*`, `[^/]*`)
	return regexp.MustCompile("^" + pattern + "$").MatchString(file)
}

// TestEveryPackageHasItsFloor: a package that no floor names could import
// anything.
func TestEveryPackageHasItsFloor(t *testing.T) {
	globs := floors(t)
	if len(globs) < 10 {
		t.Fatalf("only %d globs in .golangci.yml: has its form changed?", len(globs))
	}
	missing := map[string]bool{}
	for _, file := range goFiles(t) {
		if !strings.HasPrefix(file, "pkg/") || strings.HasPrefix(file, "pkg/testnet/") || strings.HasPrefix(file, "pkg/ipam/ipamtest/") || strings.HasSuffix(file, "_test.go") {
			continue
		}
		if !slices.ContainsFunc(globs, func(glob string) bool { return covers(glob, file) }) {
			missing[filepath.Dir(file)] = true
		}
	}
	for dir := range missing {
		t.Errorf("%s has no floor: name it in a floor-N rule of .golangci.yml and in CONTRIBUTING.md", dir)
	}
}

func TestCovers(t *testing.T) {
	for _, tc := range []struct {
		glob, file string
		want       bool
	}{
		{"**/pkg/attach/**", "pkg/attach/attach.go", true},
		{"**/pkg/attach/**", "pkg/attach/deep/a.go", true},
		{"**/pkg/attach/**", "pkg/attachment/a.go", false},
		{"**/pkg/delegate/*.go", "pkg/delegate/delegate.go", true},
		{"**/pkg/delegate/*.go", "pkg/delegate/exec/add.go", false},
		{"**/pkg/delegate/*/**", "pkg/delegate/exec/add.go", true},
		{"**/pkg/delegate/*/**", "pkg/delegate/delegate.go", false},
	} {
		if got := covers(tc.glob, tc.file); got != tc.want {
			t.Errorf("%s covers %s: %v, want %v", tc.glob, tc.file, got, tc.want)
		}
	}
}

// TestTopFolders: a newcomer finds everything in six folders.
func TestTopFolders(t *testing.T) {
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, entry := range entries {
		if entry.IsDir() && !strings.HasPrefix(entry.Name(), ".") && entry.Name() != "bin" {
			got = append(got, entry.Name())
		}
	}
	want := []string{"cmd", "deployments", "e2e", "examples", "images", "pkg"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("folders (-want +got):\n%s", diff)
	}
}

// TestFailpoints: a failpoint's name is a literal (the crash tests list them
// from the source) and marks one step only (else a test kills at the wrong
// one).
func TestFailpoints(t *testing.T) {
	where := map[string]string{}
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") || strings.HasPrefix(file, "pkg/failpoint/") {
			continue
		}
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, filepath.Join(root, file), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(node ast.Node) bool {
			call, ok := node.(*ast.CallExpr)
			if !ok || !isHit(call) {
				return true
			}
			at := strings.TrimPrefix(set.Position(call.Pos()).String(), root+"/")
			literal, ok := call.Args[0].(*ast.BasicLit)
			if !ok {
				t.Errorf("%s: the failpoint's name is no literal", at)
				return true
			}
			if other, twice := where[literal.Value]; twice {
				t.Errorf("%s: failpoint %s is at %s already", at, literal.Value, other)
			}
			where[literal.Value] = at
			return true
		})
	}
	t.Logf("%d failpoints", len(where))
}

func isHit(call *ast.CallExpr) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != "Hit" || len(call.Args) != 1 {
		return false
	}
	name, ok := selector.X.(*ast.Ident)
	return ok && name.Name == "failpoint"
}
