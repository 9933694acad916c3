package confgen

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/failpoint"
)

// replace puts 00-meta.conf in place whole, mode 0600. The temporary file is
// in the same folder, because containerd's watcher ignores Create and would
// miss a file that is renamed in from elsewhere; its name has no extension
// that runtimes load.
func replace(dir string, data []byte) error {
	path := filepath.Join(dir, ConfName)
	failpoint.Hit("confgen-before-temp")
	temp, err := writeTemp(dir, data)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	failpoint.Hit("confgen-before-rename")
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(cause(err), remove(temp)))
	}
	failpoint.Hit("confgen-after-rename")
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("write %s: sync the folder: %w", path, err)
	}
	failpoint.Hit("confgen-after-sync-folder")
	return nil
}

// writeTemp writes and syncs the temporary file, or leaves none.
func writeTemp(dir string, data []byte) (string, error) {
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return "", cause(err)
	}
	failpoint.Hit("confgen-after-temp")
	_, err = f.Write(data)
	failpoint.Hit("confgen-after-write")
	if err == nil {
		err = errors.Join(f.Chmod(0o600), f.Sync())
	}
	failpoint.Hit("confgen-after-sync-file")
	err = errors.Join(err, f.Close())
	if err != nil {
		return "", errors.Join(cause(err), remove(f.Name()))
	}
	return f.Name(), nil
}

// cause is the error without the temporary file's random name, so that the
// same failure reads the same each time.
func cause(err error) error {
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &path):
		return fmt.Errorf("%s: %w", path.Op, path.Err)
	case errors.As(err, &link):
		return fmt.Errorf("%s: %w", link.Op, link.Err)
	default:
		return err
	}
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// removeTemps removes the temporary files of a run that was killed.
func removeTemps(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			failpoint.Hit("confgen-before-remove-temp")
			errs = append(errs, remove(filepath.Join(dir, e.Name())))
			failpoint.Hit("confgen-after-remove-temp")
		}
	}
	return errors.Join(errs...)
}
