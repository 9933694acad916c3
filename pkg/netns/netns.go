// Package netns opens the network namespace that a runtime names and gives
// netlink sockets inside it.
//
// A path is never trusted: what it leads to must be a network namespace and
// must not be the host's own, and both are asked of the opened file, so that
// nothing can be swapped between check and use. Sockets stay bound to the
// namespace in which they were made, so callers need no thread of their own.
//
// Invariant: a thread of this process that is not inside Do is in the
// namespace in which the process was started.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

var (
	// ErrGone says that nothing exists at the path (any more).
	ErrGone = errors.New("network namespace is gone")
	// ErrNotNamespace says that the path leads to something that is not a
	// network namespace: the empty file that `ip netns` leaves when a
	// namespace was unmounted but not removed, a folder, another kind of
	// namespace.
	ErrNotNamespace = errors.New("not a network namespace")
	// ErrHost says that the path leads to the host's own network namespace.
	ErrHost = errors.New("the host's own network namespace")
)

// socketTimeout bounds one netlink request. The kernel answers in
// microseconds unless its routing lock (RTNL) is contended for.
const socketTimeout = 20 * time.Second

// ID tells network namespaces apart while at least one of them exists. After
// the end of a namespace its number may be used again.
type ID struct {
	Dev   uint64 `json:"dev"`
	Inode uint64 `json:"inode"`
}

// Handle is an open network namespace, which it keeps alive until Close.
type Handle struct {
	path   string
	id     ID
	file   *os.File
	links  *netlink.Handle
	socket *nl.SocketHandle
}

// Open opens the network namespace at an absolute path. The error wraps
// ErrGone, ErrNotNamespace or ErrHost where one of them is the reason.
func Open(path string) (*Handle, error) {
	file, id, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %q: %w", path, err)
	}
	h := &Handle{path: path, id: id, file: file}
	if err := h.Do(h.openSockets); err != nil {
		return nil, errors.Join(fmt.Errorf("open network namespace %q: %w", path, err), h.Close())
	}
	return h, nil
}

func (h *Handle) openSockets() error {
	here := netns.None()
	links, err := netlink.NewHandleWithOptions(netlink.HandleOptions{
		DisableVFInfoCollection: true,
		RetryInterrupted:        true,
		NetNS:                   &here,
	}, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink socket: %w", err)
	}
	h.links = links
	if err := links.SetSocketTimeout(socketTimeout); err != nil {
		return fmt.Errorf("limit the time of netlink: %w", err)
	}
	// Kernels before 4.20 don't know the option: their dumps are then
	// filtered by the library alone.
	_ = links.SetStrictCheck(true)
	return h.openRequestSocket()
}

func (h *Handle) openRequestSocket() error {
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink socket: %w", err)
	}
	h.socket = &nl.SocketHandle{Socket: socket}
	limit := unix.NsecToTimeval(socketTimeout.Nanoseconds())
	if err := errors.Join(socket.SetSendTimeout(&limit), socket.SetReceiveTimeout(&limit)); err != nil {
		return fmt.Errorf("limit the time of netlink: %w", err)
	}
	// Better words in errors, and filters in dumps; old kernels have neither.
	_ = socket.SetExtAck(true)
	_ = unix.SetsockoptInt(socket.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	return nil
}

// Path is the path that was opened.
func (h *Handle) Path() string { return h.path }

// ID identifies the namespace.
func (h *Handle) ID() ID { return h.id }

// Netlink works inside the namespace from any goroutine. Its dumps are
// repeated when the kernel interrupts them; a netlink.ErrDumpInterrupted that
// is still returned means that the result must not be used.
func (h *Handle) Netlink() *netlink.Handle { return h.links }

// Request makes a netlink route request that is executed inside the
// namespace, for messages that the library's types can't carry without loss.
// Interrupted dumps are repeated as with Netlink.
func (h *Handle) Request(kind, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: h.socket}
	req.RetryInterrupted = true
	return req
}

// Close frees the sockets and lets the namespace go.
func (h *Handle) Close() error {
	var errs []error
	if h.links != nil {
		errs = append(errs, h.links.Close())
	}
	if h.socket != nil {
		errs = append(errs, h.socket.Close())
	}
	if err := errors.Join(append(errs, h.file.Close())...); err != nil {
		return fmt.Errorf("close network namespace %q: %w", h.path, err)
	}
	return nil
}

// Interfaces names all interfaces in the namespace at path but lo: what is
// left in a sandbox from which everything should have been removed.
func Interfaces(path string) ([]string, error) {
	h, err := Open(path)
	if err != nil {
		return nil, err
	}
	names, err := h.Interfaces()
	return names, errors.Join(err, h.Close())
}

// Interfaces names all interfaces in the namespace but lo.
func (h *Handle) Interfaces() ([]string, error) {
	links, err := h.links.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces in %q: %w", h.path, err)
	}
	var names []string
	for _, link := range links {
		if link.Attrs().RawFlags&unix.IFF_LOOPBACK == 0 {
			names = append(names, link.Attrs().Name)
		}
	}
	return names, nil
}

// openFile opens path by way of a reference without rights (O_PATH), which
// has no side effects on pipes and devices, and only opens it for use when it
// is known to be a network namespace.
func openFile(path string) (*os.File, ID, error) {
	if !filepath.IsAbs(path) {
		return nil, ID{}, fmt.Errorf("%w: the path must be absolute", ErrNotNamespace)
	}
	ref, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, ID{}, fmt.Errorf("%w: %w", ErrGone, err)
	}
	if err != nil {
		return nil, ID{}, err
	}
	defer func() { _ = unix.Close(ref) }()
	if err := requireNsfs(ref); err != nil {
		return nil, ID{}, err
	}
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", ref))
	if err != nil {
		return nil, ID{}, err
	}
	id, err := requireForeignNetns(file)
	if err != nil {
		return nil, ID{}, errors.Join(err, file.Close())
	}
	return file, id, nil
}

func requireNsfs(fd int) error {
	var statfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &statfs); err != nil {
		return fmt.Errorf("ask for its file system: %w", err)
	}
	if statfs.Type != unix.NSFS_MAGIC {
		return fmt.Errorf("%w: it is on a file system of type %#x, not nsfs", ErrNotNamespace, statfs.Type)
	}
	return nil
}

func requireForeignNetns(file *os.File) (ID, error) {
	kind, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_NSTYPE)
	if err != nil {
		return ID{}, fmt.Errorf("ask for the kind of namespace: %w", err)
	}
	if kind != unix.CLONE_NEWNET {
		return ID{}, fmt.Errorf("%w: it is a namespace of another kind (%#x)", ErrNotNamespace, kind)
	}
	id, err := statID(func(st *unix.Stat_t) error { return unix.Fstat(int(file.Fd()), st) })
	if err != nil {
		return ID{}, err
	}
	return id, refuseHost(id)
}

// refuseHost compares with the namespaces of this process and of process 1.
// Both, because the daemon may run in a host that is itself a namespace, and
// because process 1 is the container's when it sees no others.
func refuseHost(id ID) error {
	for _, own := range []string{"/proc/self/ns/net", "/proc/1/ns/net"} {
		host, err := statID(func(st *unix.Stat_t) error { return unix.Stat(own, st) })
		if own != "/proc/self/ns/net" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
			continue
		}
		if err != nil {
			return fmt.Errorf("compare with %s: %w", own, err)
		}
		if id == host {
			return fmt.Errorf("%w (%s): a sandbox needs one of its own", ErrHost, own)
		}
	}
	return nil
}

func statID(stat func(*unix.Stat_t) error) (ID, error) {
	var st unix.Stat_t
	if err := stat(&st); err != nil {
		return ID{}, err
	}
	return ID{Dev: st.Dev, Inode: st.Ino}, nil
}

// HasOthers says whether the folder of path has another namespace in it. Where
// it has none, nothing is said by path being gone: the mount that holds all of
// them may be missing.
func HasOthers(path string) bool {
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, entry := range entries {
		other := filepath.Join(dir, entry.Name())
		var fs unix.Statfs_t
		if other != path && unix.Statfs(other, &fs) == nil && fs.Type == unix.NSFS_MAGIC {
			return true
		}
	}
	return false
}
