package wire

import (
	"fmt"
	"syscall"
	"time"
	"unsafe"
)

// clockBoottime is CLOCK_BOOTTIME of clock_gettime(2).
const clockBoottime = 7

// Uptime is the time since this boot, suspension included (CLOCK_BOOTTIME): it
// orders what happened in one boot, whatever becomes of the wall clock.
func Uptime() (time.Duration, error) {
	var at syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&at)), 0) //nolint:gosec // the standard library has no other way
	if errno != 0 {
		return 0, fmt.Errorf("clock_gettime: %w", errno)
	}
	return time.Duration(at.Nano()), nil
}
