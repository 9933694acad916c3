package confgen

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNotFound marks that no file has the wanted network's name.
var ErrNotFound = errors.New("no network of this name")

// FindByName looks for the configuration of a network definition that has
// none of its own (NPWG specification v1.3, 3.4): folder by folder, lists
// before single plugins, each in lexical order. The error names the files
// that could not be read, because the wanted one may be among them.
func FindByName(dirs []string, name string) (config []byte, path string, err error) {
	var broken []string
	for _, dir := range dirs {
		files, err := readDir(dir)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				broken = append(broken, err.Error())
			}
			continue
		}
		slices.SortFunc(files, listsFirst)
		for _, f := range files {
			n, err := parse(f)
			switch {
			case err != nil:
				broken = append(broken, fmt.Sprintf("%s: %s", filepath.Join(dir, f.Name), err))
			case n.name != name:
			case meta(n.types) != "":
				broken = append(broken, fmt.Sprintf("%s: %s", filepath.Join(dir, f.Name), meta(n.types)))
			default:
				return n.config, filepath.Join(dir, f.Name), nil
			}
		}
	}
	return nil, "", notFound(dirs, name, broken)
}

func listsFirst(a, b File) int {
	if la, lb := filepath.Ext(a.Name) == extList, filepath.Ext(b.Name) == extList; la != lb {
		if la {
			return -1
		}
		return 1
	}
	return strings.Compare(a.Name, b.Name)
}

func notFound(dirs []string, name string, broken []string) error {
	text := ""
	if len(broken) > 0 {
		text = "; passed over: " + strings.Join(broken, "; ")
	}
	return fmt.Errorf("%w: %q in %s: put a .conflist or .conf with this \"name\" there, or fill in the definition's spec.config%s",
		ErrNotFound, name, strings.Join(dirs, ", "), text)
}
