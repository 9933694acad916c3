package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"hash/fnv"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Spool is the folder of the requests that found no daemon. The plugin puts,
// the daemon lists, does and removes. One file holds one request:
//
//	meta-cni spool 1 <crc64 of the rest, 16 hex digits>\n<JSON>
//
// An entry may be done twice (the daemon can die between doing and removing),
// so only idempotent requests, that is DEL, belong here.
type Spool struct {
	// Dir is the folder; made with mode 0700 when missing.
	Dir string
}

// Entry is one request in the spool.
type Entry struct {
	// Name is the file's name in the folder.
	Name    string
	Time    time.Time
	Request *Request
	// BootID is the boot in which it was put here, Uptime how long that had
	// lasted (see Uptime); zero when they weren't known, or in entries of
	// an earlier release. Unlike Time they don't jump.
	BootID string
	Uptime time.Duration
}

// spooled is the JSON of an entry: the request's keys and these.
type spooled struct {
	*Request
	BootID string        `json:"spooledBootID,omitempty"`
	Uptime time.Duration `json:"spooledUptime,omitempty"`
}

// CorruptError reports an entry that cannot be read back.
type CorruptError struct {
	// Path is where the file was, MovedTo where it is now; empty when it could
	// not be moved.
	Path, MovedTo string
	Err           error
}

func (e *CorruptError) Error() string {
	if e.MovedTo == "" {
		return fmt.Sprintf("spool entry %s is damaged and was left there: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("spool entry %s is damaged, kept as %s: %v", e.Path, e.MovedTo, e.Err)
}

// Unwrap is the cause.
func (e *CorruptError) Unwrap() error { return e.Err }

const (
	spoolMagic  = "meta-cni spool 1 "
	spoolSuffix = ".request"
	// spoolTemp begins the names of files that are not whole yet.
	spoolTemp = ".tmp-"
	// maxSpoolFile is a frame's content and the first line.
	maxSpoolFile = MaxFrame + 64
	bootIDFile   = "/proc/sys/kernel/random/boot_id"
)

// Put stores req; when it returns nil, the entry survives a loss of power.
func (s Spool) Put(req *Request) error {
	content, err := spoolContent(stamp(req))
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.Dir, err)
	}
	if err := s.make(); err != nil {
		return fmt.Errorf("spool %s: %w", s.Dir, err)
	}
	root, err := s.open()
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.Dir, err)
	}
	defer root.Close()
	name := spoolName(time.Now(), rand.Uint64(), req)
	if err := putSynced(root, name, content); err != nil {
		return fmt.Errorf("spool %s: %w", s.Dir, err)
	}
	return nil
}

// List returns the whole entries, oldest first. Damaged ones are moved to the
// folder quarantine beside the spool; the error then joins one CorruptError
// for each, and the entries are still good. A missing folder is empty.
func (s Spool) List() ([]Entry, error) {
	root, err := s.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("spool %s: %w", s.Dir, err)
	}
	defer root.Close()
	files, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("spool %s: %w", s.Dir, err)
	}
	var entries []Entry
	var problems []error
	for _, f := range files { // sorted by name, which begins with the time
		if strings.HasPrefix(f.Name(), spoolTemp) {
			removeAbandoned(root, f)
		}
		if !strings.HasSuffix(f.Name(), spoolSuffix) || strings.HasPrefix(f.Name(), ".") {
			continue
		}
		entry, err := readEntry(root, f.Name())
		switch {
		case err == nil:
			entries = append(entries, entry)
		case errors.Is(err, fs.ErrNotExist): // removed meanwhile
		default:
			problems = append(problems, s.quarantine(f.Name(), err))
		}
	}
	return entries, errors.Join(problems...)
}

// Remove forgets e, durably; that it is gone already is no error.
func (s Spool) Remove(e Entry) error {
	root, err := s.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.Dir, err)
	}
	defer root.Close()
	if err := root.Remove(e.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("spool %s: %w", s.Dir, err)
	}
	return syncFolder(root)
}

// removeAbandoned removes what a plugin that was killed did not finish; nobody
// was told that it is kept. No plugin writes for an hour.
func removeAbandoned(root *os.Root, f fs.DirEntry) {
	if info, err := f.Info(); err == nil && time.Since(info.ModTime()) > time.Hour {
		_ = root.Remove(f.Name()) // the next List tries again
	}
}

// stamp notes when a request was spooled. Without it the entry is still good:
// no DEL is lost for it.
func stamp(req *Request) spooled {
	boot, err := os.ReadFile(bootIDFile)
	if err != nil {
		return spooled{Request: req}
	}
	uptime, err := Uptime()
	if err != nil {
		return spooled{Request: req}
	}
	return spooled{Request: req, BootID: string(bytes.TrimSpace(boot)), Uptime: uptime}
}

// spoolContent is the file of an entry.
func spoolContent(entry spooled) ([]byte, error) {
	frame, err := encode(entry)
	if err != nil {
		return nil, err
	}
	payload := frame[4:]
	return append([]byte(spoolMagic+checksum(payload)+"\n"), payload...), nil
}

func checksum(payload []byte) string {
	return fmt.Sprintf("%016x", crc64.Checksum(payload, crc64.MakeTable(crc64.ECMA)))
}

// spoolName orders by time, cannot clash, and holds the request only as a hash
// (its values are not ours to use in a path).
func spoolName(now time.Time, random uint64, req *Request) string {
	h := fnv.New64a()
	_, _ = io.WriteString(h, req.ContainerID+"\x00"+req.IfName)
	return fmt.Sprintf("%020d-%016x-%016x%s", now.UnixNano(), random, h.Sum64(), spoolSuffix)
}

// parseSpool is the reverse of spoolContent.
func parseSpool(content []byte) (spooled, error) {
	head, payload, ok := bytes.Cut(content, []byte("\n"))
	sum, magic := strings.CutPrefix(string(head), spoolMagic)
	if !ok || !magic {
		return spooled{}, fmt.Errorf("%d bytes, not begun by %q", len(content), spoolMagic)
	}
	if sum != checksum(payload) {
		return spooled{}, errors.New("the checksum does not match")
	}
	entry := spooled{Request: new(Request)}
	if err := json.Unmarshal(payload, &entry); err != nil {
		return spooled{}, err
	}
	return entry, nil
}

func readEntry(root *os.Root, name string) (Entry, error) {
	// O_NONBLOCK: a named pipe that someone put there must not block.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return Entry{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Entry{}, err
	}
	if !info.Mode().IsRegular() {
		return Entry{}, fmt.Errorf("not a regular file: %s", info.Mode())
	}
	content, err := io.ReadAll(io.LimitReader(f, maxSpoolFile+1))
	if err != nil {
		return Entry{}, err
	}
	entry, err := parseSpool(content)
	if err != nil {
		return Entry{}, err
	}
	at := info.ModTime()
	digits, _, _ := strings.Cut(name, "-")
	if nanos, err := strconv.ParseInt(digits, 10, 64); err == nil {
		at = time.Unix(0, nanos)
	}
	return Entry{Name: name, Time: at, Request: entry.Request, BootID: entry.BootID, Uptime: entry.Uptime}, nil
}

func (s Spool) quarantine(name string, why error) error {
	from := filepath.Join(s.Dir, name)
	dir := filepath.Join(filepath.Dir(filepath.Clean(s.Dir)), "quarantine")
	to := filepath.Join(dir, "spool-"+name)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.Rename(from, to)
	}
	if err != nil {
		return &CorruptError{Path: from, Err: errors.Join(why, err)}
	}
	return &CorruptError{Path: from, MovedTo: to, Err: why}
}

// make makes the folder and the missing ones above it, synced: an entry in a
// folder that a loss of power takes away would not be durable.
func (s Spool) make() error {
	var missing []string
	for dir := filepath.Clean(s.Dir); ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(dir); err == nil || dir == filepath.Dir(dir) {
			break
		}
		missing = append(missing, dir)
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	for _, dir := range missing {
		if err := syncPath(filepath.Dir(dir)); err != nil {
			return err
		}
	}
	return nil
}

// open opens the folder, if it is one, ours, and nobody else can write there.
func (s Spool) open() (*os.Root, error) {
	before, err := os.Lstat(s.Dir)
	if err != nil {
		return nil, err
	}
	st, ok := before.Sys().(*syscall.Stat_t)
	if !before.IsDir() || !ok || st.Uid != uint32(os.Geteuid()) || before.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("must be a folder of uid %d that nobody else can write, not %s", os.Geteuid(), before.Mode())
	}
	root, err := os.OpenRoot(s.Dir)
	if err != nil {
		return nil, err
	}
	after, err := root.Stat(".")
	if err != nil || !os.SameFile(before, after) {
		_ = root.Close()
		return nil, errors.Join(errors.New("the folder was replaced while it was opened"), err)
	}
	return root, nil
}

func putSynced(root *os.Root, name string, content []byte) error {
	temp := spoolTemp + name
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = root.Rename(temp, name)
	}
	if err != nil {
		_ = root.Remove(temp)
		return err
	}
	return syncFolder(root)
}

func syncFolder(root *os.Root) error {
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func syncPath(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
