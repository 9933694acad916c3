package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// Listen makes the daemon's socket at path (mode 0600, in a folder of mode
// 0700) and takes the place of whatever socket or file is there: it binds
// beside it and renames, so that at every moment the name leads to a socket.
// That no other daemon is alive is for the caller to know. Closing the
// listener leaves the name in place, for it may be a successor's by then.
func Listen(path string) (net.Listener, error) {
	if err := privateFolder(filepath.Dir(path)); err != nil {
		return nil, err
	}
	beside := path + ".new"
	if len(beside) > maxSocketPath {
		return nil, fmt.Errorf("socket %s: the path may have %d bytes: choose a shorter one", path, maxSocketPath-len(".new"))
	}
	if err := os.Remove(beside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("socket %s: remove what a killed daemon left: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: beside, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(beside, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if err := os.Rename(beside, path); err != nil {
		_ = l.Close()
		_ = os.Remove(beside)
		return nil, fmt.Errorf("socket %s: put it in place of what is there: %w", path, err)
	}
	return l, nil
}

// privateFolder makes the folder with mode 0700, or takes the rights of others
// away. A folder that is shared (sticky, or with folders in it, like /run) is
// left as it is; the socket's mode and SO_PEERCRED hold there.
func privateFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("folder of the socket: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("folder of the socket: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || st.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("folder of the socket %s: must be a folder of uid %d, not a link or another's", dir, os.Geteuid())
	}
	if info.Mode().Perm()&0o077 == 0 || info.Mode()&fs.ModeSticky != 0 {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("folder of the socket: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			return nil
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("folder of the socket: %w", err)
	}
	return nil
}
