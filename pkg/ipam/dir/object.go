package dir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// format is the version of the files.
const format = 1

// ErrCorrupt marks a file that isn't what was written.
var ErrCorrupt = errors.New("the file is damaged")

// file is what every file begins with. The name is the object's own, so that a
// copy under another name is seen; Version counts the updates of one UID.
type file struct {
	Format  int    `json:"format"`
	Name    string `json:"name"`
	UID     string `json:"uid"`
	Version uint64 `json:"version"`
}

func (f file) head() file { return f }

// version is what the object is known by.
func (f file) version() ipam.Version {
	return ipam.Version{UID: f.UID, Resource: strconv.FormatUint(f.Version, 10)}
}

// next is the file's head after an update.
func (f file) next() file {
	f.Version++
	return f
}

type spaceFile struct {
	file
	Space ipam.Space `json:"space"`
}

type blockFile struct {
	file
	Mode    ipam.BlockMode `json:"mode"`
	Owner   ipam.Node      `json:"owner,omitzero"`
	Suspect bool           `json:"suspect,omitempty"`
	Usage   *usage         `json:"usage,omitempty"`
}

// usage is for people.
type usage struct {
	Bitmap []byte         `json:"bitmap,omitempty"`
	Owners []addressOwner `json:"owners,omitempty"`
	At     time.Time      `json:"at,omitzero"`
}

type addressOwner struct {
	Addr  netip.Addr `json:"address"`
	Owner ipam.Owner `json:"owner"`
	Since time.Time  `json:"since,omitzero"`
}

type claimFile struct {
	file
	State   ipam.ClaimState `json:"state"`
	Node    ipam.Node       `json:"node,omitzero"`
	Owner   ipam.Owner      `json:"owner,omitzero"`
	Keep    ipam.Keeper     `json:"keep,omitzero"`
	Pool    string          `json:"pool,omitempty"`
	Suspect bool            `json:"suspect,omitempty"`
	Since   time.Time       `json:"since,omitzero"`
}

func (f blockFile) block(ref ipam.BlockRef) ipam.Block {
	return ipam.Block{Ref: ref, Mode: f.Mode, Owner: f.Owner, Suspect: f.Suspect, Version: f.version()}
}

func fileOfBlock(head file, b ipam.Block, u *usage) blockFile {
	return blockFile{file: head, Mode: b.Mode, Owner: b.Owner, Suspect: b.Suspect, Usage: u}
}

func (f claimFile) claim(ref ipam.ClaimRef) ipam.Claim {
	return ipam.Claim{
		Ref: ref, State: f.State, Node: f.Node, Owner: f.Owner, Keep: f.Keep,
		Pool: f.Pool, Suspect: f.Suspect, Since: f.Since, Version: f.version(),
	}
}

func fileOfClaim(head file, c ipam.Claim) claimFile {
	return claimFile{
		file: head, State: c.State, Node: c.Node, Owner: c.Owner, Keep: c.Keep,
		Pool: c.Pool, Suspect: c.Suspect, Since: c.Since,
	}
}

func fileOfUsage(u ipam.Usage) *usage {
	told := &usage{Bitmap: u.Bitmap, At: u.At}
	for _, o := range u.Owners {
		told.Owners = append(told.Owners, addressOwner(o))
	}
	return told
}

// object is one of the file types.
type object interface{ head() file }

func encode(o object) ([]byte, error) {
	data, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.head().Name, err)
	}
	return append(data, '\n'), nil
}

// decode reads a file that must be about the object of that name.
func decode[F object](data []byte, name string) (F, error) {
	var f F
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return f, err
	}
	h := f.head()
	switch {
	case h.Format != format:
		return f, fmt.Errorf("it has format %d; this version reads %d", h.Format, format)
	case h.Name != name:
		return f, fmt.Errorf("it is about %q", h.Name)
	case h.UID == "" || h.Version == 0:
		return f, errors.New("it has no UID or no version")
	case len(bytes.TrimSpace(data[d.InputOffset():])) > 0:
		return f, errors.New("something follows the object")
	}
	return f, nil
}
