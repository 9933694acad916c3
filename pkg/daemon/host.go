package daemon

import (
	"fmt"
	"log/slog"

	"golang.org/x/sys/unix"
)

// PrepareHost makes the process ready to run delegates: in a container that
// isn't privileged, /proc/sys is mounted read-only, and delegates such as
// bridge must write forwarding and interface settings there. It is remounted
// in the container's own mount namespace only; the host's is not touched.
func PrepareHost(log *slog.Logger) error {
	const path = "/proc/sys"
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if fs.Flags&unix.ST_RDONLY == 0 {
		return nil
	}
	if err := unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("%s is read-only and can't be remounted: the container needs CAP_SYS_ADMIN and an AppArmor profile that allows mounts (unconfined): %w", path, err)
	}
	log.Info("/proc/sys of the container is writable now")
	return nil
}
