package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"time"

	"github.com/meta-cni/meta-cni/pkg/attach"
)

// Kind says what a record is about.
type Kind string

// The records of one attachment set, in the order in which they appear.
const (
	// KindBegin holds the plan; it is written before anything is touched.
	KindBegin Kind = "begin"
	// KindProcess says that a delegate's process exists and is about to get its
	// configuration; the delegate counts as touched from here on.
	KindProcess Kind = "process"
	// KindAdded holds the result of a delegate's ADD.
	KindAdded Kind = "added"
	// KindRoutes holds the default routes as they were before the move.
	KindRoutes Kind = "routes"
	// KindCommit holds the attachments; the runtime may be told of them.
	KindCommit Kind = "commit"
	// KindDelete says that the set is being removed, and why.
	KindDelete Kind = "delete"
	// KindRestored says that the default routes are as before.
	KindRestored Kind = "restored"
	// KindDeleted says that a delegate's DEL succeeded.
	KindDeleted Kind = "deleted"
	// KindFailed holds the error of a delegate's DEL.
	KindFailed Kind = "failed"
)

// Process names a running delegate so that a restarted daemon can end it and
// nothing else: the process group and the start time of its leader in clock
// ticks since boot (proc_pid_stat(5), field 22).
type Process struct {
	Group     int    `json:"group"`
	StartTime uint64 `json:"startTime"`
}

// Begin is the content of the first record.
type Begin struct {
	// Format is the version of this file format, now 1.
	Format int `json:"format"`
	// Generation tells two ADDs of one key apart; it grows on a node.
	Generation uint64 `json:"generation"`
	// BootID is the boot in which the sandbox lives
	// (/proc/sys/kernel/random/boot_id).
	BootID string `json:"bootID"`
	// Uptime is when in that boot the plan was written (CLOCK_BOOTTIME, ns).
	Uptime time.Duration `json:"uptime,omitempty"`
	// NetnsDev and NetnsInode identify the namespace, whose path may be reused.
	NetnsDev   uint64      `json:"netnsDev,omitempty"`
	NetnsInode uint64      `json:"netnsInode,omitempty"`
	Recovered  bool        `json:"recovered,omitempty"`
	Plan       attach.Plan `json:"plan"`
}

// record is one line of the file; which fields are set depends on Kind.
type record struct {
	Kind        Kind                `json:"kind"`
	Delegate    int                 `json:"delegate,omitempty"`
	Begin       *Begin              `json:"begin,omitempty"`
	Process     *Process            `json:"process,omitempty"`
	Result      json.RawMessage     `json:"result,omitempty"`
	Routes      json.RawMessage     `json:"routes,omitempty"`
	Attachments []attach.Attachment `json:"attachments,omitempty"`
	Message     string              `json:"message,omitempty"`
	Time        time.Time           `json:"time,omitzero"`
}

// ErrCorrupt marks a file whose content is not what was written.
var ErrCorrupt = errors.New("journal file is corrupt")

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// encode makes a line: CRC-32C of the JSON in eight hex digits, a space, the
// JSON, a line feed.
func encode(r record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	line := make([]byte, 0, len(body)+10)
	line = fmt.Appendf(line, "%08x ", crc32.Checksum(body, castagnoli()))
	return append(append(line, body...), '\n'), nil
}

// decode reads the records of a file whose tail may be preallocated zeros. It
// returns the records before the first damage, the length of their bytes, and
// ErrCorrupt when there is damage that no interrupted write explains: an
// interrupted write leaves a last line without its line feed.
func decode(data []byte) (records []record, end int, err error) {
	data = bytes.TrimRight(data, "\x00")
	for end < len(data) {
		n := bytes.IndexByte(data[end:], '\n')
		if n < 0 {
			return records, end, nil
		}
		r, err := decodeLine(data[end : end+n])
		if err != nil {
			return records, end, fmt.Errorf("%w: record %d at byte %d: %w", ErrCorrupt, len(records)+1, end, err)
		}
		records = append(records, r)
		end += n + 1
	}
	return records, end, nil
}

func decodeLine(line []byte) (record, error) {
	var r record
	sum, body, ok := bytes.Cut(line, []byte(" "))
	if !ok || len(sum) != 8 {
		return r, errors.New("no checksum")
	}
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil {
		return r, errors.New("checksum is not hexadecimal")
	}
	if got := crc32.Checksum(body, castagnoli()); uint64(got) != want {
		return r, fmt.Errorf("checksum is %08x, the content's is %08x", want, got)
	}
	return r, json.Unmarshal(body, &r)
}

// salvage finds the first whole begin record anywhere in damaged data.
func salvage(data []byte) *Begin {
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		r, err := decodeLine(bytes.Trim(line, "\x00"))
		if err == nil && r.Kind == KindBegin && r.Begin != nil {
			return r.Begin
		}
	}
	return nil
}
