package ipam

import (
	"context"
	"errors"
	"net/netip"

	"github.com/meta-cni/meta-cni/pkg/iprange"
)

// What a Store reports; tested with errors.Is. Any other error of a write means
// that nobody knows: it may have taken effect, or may do so later.
var (
	// ErrExists: CREATE found an object of that name.
	ErrExists = errors.New("already exists")
	// ErrNotFound: there is no such object.
	ErrNotFound = errors.New("not found")
	// ErrStale: the object is not the one of that UID and resourceVersion.
	ErrStale = errors.New("changed meanwhile")
)

// Store keeps the objects of the IPAM for all nodes. Reads are of the latest
// state unless said otherwise. Each write is atomic, and updates and deletions
// are refused with ErrStale unless UID and resourceVersion are those of
// Version; a deletion of what is not there is ErrNotFound. Each update gives
// the object a new resourceVersion, also when nothing else changes. It is safe
// for concurrent use, also by several processes.
type Store interface {
	// Space is the space of that name; it is made as given if it isn't there.
	Space(ctx context.Context, as Space) (Space, error)

	GetBlock(ctx context.Context, ref BlockRef) (Block, error)
	CreateBlock(ctx context.Context, b Block) (Block, error)
	UpdateBlock(ctx context.Context, b Block) (Block, error)
	DeleteBlock(ctx context.Context, ref BlockRef, v Version) error

	GetClaim(ctx context.Context, ref ClaimRef) (Claim, error)
	CreateClaim(ctx context.Context, c Claim) (Claim, error)
	UpdateClaim(ctx context.Context, c Claim) (Claim, error)
	DeleteClaim(ctx context.Context, ref ClaimRef, v Version) error

	// NodeBlocks and NodeClaims are those whose owner's node has the name. They
	// may miss what is younger than a minute.
	NodeBlocks(ctx context.Context, node string) ([]Block, error)
	NodeClaims(ctx context.Context, node string) ([]Claim, error)
	// KeptClaims are those of a keeper, whatever their state.
	KeptClaims(ctx context.Context, keep Keeper) ([]Claim, error)

	// SpaceBlocks are the blocks of a space that meet the set. They may be old;
	// Shared is true for ever.
	SpaceBlocks(ctx context.Context, space string, within iprange.Set) ([]Block, error)
	// SpaceClaims are the claims of a space within the set, as they are now.
	SpaceClaims(ctx context.Context, space string, within iprange.Set) ([]Claim, error)
	// Taken are the addresses of a space within the set that have claims. It is
	// a hint, cheap and possibly old.
	Taken(ctx context.Context, space string, within iprange.Set) (map[netip.Addr]bool, error)

	// Nodes is about how many nodes allocate, at least 1. A hint.
	Nodes(ctx context.Context) (int, error)
	// Ask asks the node to share its block. To ask again changes nothing.
	Ask(ctx context.Context, node string, ref BlockRef) error
	// Asked are the blocks that others want of the node.
	Asked(ctx context.Context, node string) ([]BlockRef, error)
	// Answered takes requests away from the node's list.
	Answered(ctx context.Context, node string, refs []BlockRef) error
	// Mirror writes the usage of a block for people to read, if the block still
	// has that UID; it returns the block's new version.
	Mirror(ctx context.Context, u Usage) (Version, error)
}
