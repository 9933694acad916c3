// Package install puts meta-cni's plugin binary into the plugin folders of a
// node, under every name that it answers to.
//
// It knows files only: it neither writes a network configuration nor talks to
// the daemon or a runtime.
//
// Invariant: at every instant, also after a crash or on a full disk, the
// plugin's path holds one whole version of the binary, the old or the new,
// and nobody has it open for writing, so that the runtime never meets "text
// file busy" (multus#1213, multus#1221).
package install

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// Plugin is the name of the plugin's binary.
const Plugin = "meta-cni"

// Whereabouts is the further name by which existing network definitions with
// `"ipam": {"type": "whereabouts"}` reach meta-cni; it replaces the binary of
// that name, so that it is only made when asked for.
const Whereabouts = "whereabouts"

// Names returns the further names that the plugin answers to.
func Names() []string { return []string{"meta-ipam", "meta-routed", "meta-vxlan"} }

// mode is set by chmod, so that neither the umask nor a setuid bit of the
// source decides (CVE-2024-33522: a CNI installer that left a setuid binary).
const mode = 0o755

const (
	tempPattern = "." + Plugin + "-*.tmp"
	// tempAge is when a temporary file is taken for the rest of an installer
	// that was killed, and not for the work of one that runs beside this one.
	tempAge = time.Hour
)

// Installer copies the plugin into plugin folders.
type Installer struct {
	// Names are the symbolic links to make beside the plugin.
	Names []string
	// Log gets one line for each file that was changed.
	Log *slog.Logger
}

// Binaries copies the plugin from the folder src into each of the folders and
// makes the links. Missing folders are made. What is in place already is left
// alone. A folder that fails does not keep the others from being served; the
// errors are joined.
func (in Installer) Binaries(ctx context.Context, src string, folders []string) error {
	if len(folders) == 0 {
		return errors.New("install: no plugin folder given; name at least one, such as /opt/cni/bin")
	}
	content, err := readPlugin(filepath.Join(src, Plugin))
	if err != nil {
		return err
	}
	for _, name := range in.Names {
		if name != filepath.Base(name) || name == Plugin || name == "." || name == ".." {
			return fmt.Errorf("install: %q can't be a further name of the plugin: give a file name other than %s", name, Plugin)
		}
	}
	var errs []error
	for _, folder := range folders {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if err := in.intoFolder(folder, content); err != nil {
			errs = append(errs, fmt.Errorf("install into %s: %w", folder, err))
		}
	}
	return errors.Join(errs...)
}

func readPlugin(path string) ([]byte, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("install: read the plugin: %w; the image holds it in /opt/meta-cni", err)
	}
	if len(content) == 0 {
		return nil, fmt.Errorf("install: the plugin %s is empty; build it again", path)
	}
	return content, nil
}

func (in Installer) intoFolder(folder string, content []byte) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if err := removeOldTemps(folder); err != nil {
		return err
	}
	changed, err := placeFile(folder, content)
	if err != nil {
		return err
	}
	if changed {
		in.Log.Info("plugin installed", "file", filepath.Join(folder, Plugin), "bytes", len(content))
	}
	for _, name := range in.Names {
		linked, err := placeLink(folder, name)
		if err != nil {
			return err
		}
		if linked {
			in.Log.Info("link made", "file", filepath.Join(folder, name), "to", Plugin)
		}
		changed = changed || linked
	}
	if !changed {
		return nil
	}
	return syncFolder(folder)
}

// removeOldTemps removes what a killed installer left.
func removeOldTemps(folder string) error {
	paths, err := filepath.Glob(filepath.Join(folder, tempPattern))
	if err != nil {
		return err
	}
	for _, path := range paths {
		info, err := os.Lstat(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if time.Since(info.ModTime()) < tempAge {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}
