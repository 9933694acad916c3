package install

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
)

// placeFile makes the plugin's path hold content with the right mode; it
// reports whether it changed anything.
func placeFile(folder string, content []byte) (bool, error) {
	path := filepath.Join(folder, Plugin)
	same, err := holds(path, content)
	if err != nil || same {
		return false, err
	}
	temp, err := writeTemp(folder, content)
	if err != nil {
		return false, err
	}
	if err := os.Rename(temp, path); err != nil {
		return false, errors.Join(err, os.Remove(temp))
	}
	return true, nil
}

// holds says whether path is a regular file of the right mode with exactly
// this content. A symbolic link is not followed: what it points at is not
// ours to judge, and the rename replaces the link itself.
func holds(path string, content []byte) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Mode() != mode || info.Size() != int64(len(content)) {
		return false, nil
	}
	got, err := os.ReadFile(path)
	return bytes.Equal(got, content), err
}

// writeTemp writes content to a new file in the folder and syncs it. The file
// is closed before its name is returned: nothing that is renamed into place is
// open for writing. After an error no file is left.
func writeTemp(folder string, content []byte) (string, error) {
	temp, err := os.CreateTemp(folder, tempPattern)
	if err != nil {
		return "", err
	}
	_, err = temp.Write(content)
	if err == nil {
		err = temp.Chmod(mode)
	}
	if err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return "", errors.Join(err, os.Remove(temp.Name()))
	}
	return temp.Name(), nil
}

// placeLink makes name a symbolic link to the plugin beside it; it reports
// whether it changed anything.
func placeLink(folder, name string) (bool, error) {
	path := filepath.Join(folder, name)
	if target, err := os.Readlink(path); err == nil && target == Plugin {
		return false, nil
	}
	// The name must be free for symlink(2): a folder made for it alone can't
	// collide with another installer's.
	dir, err := os.MkdirTemp(folder, tempPattern)
	if err != nil {
		return false, err
	}
	temp := filepath.Join(dir, name)
	if err := os.Symlink(Plugin, temp); err != nil {
		return false, errors.Join(err, os.Remove(dir))
	}
	if err := os.Rename(temp, path); err != nil {
		return false, errors.Join(err, os.Remove(temp), os.Remove(dir))
	}
	return true, os.Remove(dir)
}

func syncFolder(folder string) error {
	dir, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
