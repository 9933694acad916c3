package agent

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/meta-cni/meta-cni/pkg/ipam"
	"github.com/meta-cni/meta-cni/pkg/ipam/ipamtest"
	"github.com/meta-cni/meta-cni/pkg/wal"
)

// nowhere is a log that keeps nothing: what is measured is not its writing.
type nowhere struct{ size int64 }

func (n *nowhere) Append(r []byte) (Ticket, error)         { n.size += int64(len(r)); return done{}, nil }
func (n *nowhere) AppendReserved(r []byte) (Ticket, error) { return n.Append(r) }
func (n *nowhere) Compact([]byte) error                    { n.size = 0; return nil }
func (n *nowhere) Compacting() bool                        { return true }
func (n *nowhere) Size() int64                             { return n.size }
func (n *nowhere) Broken() error                           { return nil }
func (n *nowhere) Close() error                            { return nil }

func benchAgent(b testing.TB, log Log) *Agent {
	b.Helper()
	begin := time.Now()
	a, err := Open(log, wal.Recovered{}, Options{
		Store: ipamtest.NewMemory(), Node: ipam.Node{Name: "a", Boot: "b"},
		Clock: func() time.Duration { return time.Since(begin) },
	})
	if err != nil {
		b.Fatal(err)
	}
	return a
}

// BenchmarkAllocate is an ADD in a block that the node holds and its DEL: in
// memory, and with the log on a disk, which has a sync for each.
func BenchmarkAllocate(b *testing.B) {
	b.Run("no-log", func(b *testing.B) { allocateAndRelease(b, benchAgent(b, &nowhere{})) })
	for _, sync := range []bool{false, true} {
		b.Run("log-sync-"+strconv.FormatBool(sync), func(b *testing.B) {
			log, _, err := wal.Open(wal.Options{Dir: b.TempDir(), NoSync: !sync})
			if err != nil {
				b.Fatal(err)
			}
			a := benchAgent(b, Disk{log})
			allocateAndRelease(b, a)
			if err := a.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func allocateAndRelease(b *testing.B, a *Agent) {
	b.Helper()
	r := request(b, "warm", "10.0.0.0/16")
	r.Cooldown = time.Nanosecond
	if _, err := a.Allocate(b.Context(), r); err != nil {
		b.Fatal(err)
	}
	requests := make([]ipam.Request, 1000)
	for i := range requests {
		requests[i] = r
		requests[i].Owner.ContainerID = fmt.Sprint("container-", i)
	}
	b.ResetTimer()
	for i := range b.N {
		r := requests[i%len(requests)]
		if _, err := a.Allocate(b.Context(), r); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := a.Release(b.Context(), r.Owner.Key); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// The time of an allocation doesn't grow with the number of addresses that one
// node has, up to a million (META_CNI_SOAK); the short run has fewer.
func TestTimeOfAnAllocationDoesNotGrow(t *testing.T) {
	// In the short run the machine may be busy with other tests.
	count, limit := 20_000, 4.0
	if os.Getenv("META_CNI_SOAK") != "" {
		count, limit = 1_000_000, 1.5
	}
	for _, text := range []string{"10.0.0.0/8", "2001:db8::/64"} {
		t.Run(text, func(t *testing.T) {
			a := benchAgent(t, &nowhere{})
			const window = 1000
			r := request(t, "c", text)
			var took []time.Duration
			for i := 0; i < count; i += window {
				start := time.Now()
				for j := range window {
					r.Owner.ContainerID = strconv.Itoa(i + j)
					if _, err := a.Allocate(t.Context(), r); err != nil {
						t.Fatal(err)
					}
				}
				took = append(took, time.Since(start)/window)
			}
			n := min(10, len(took)/2)
			first, last := slices.Min(took[:n]), slices.Min(took[len(took)-n:])
			ratio := float64(last) / float64(first)
			t.Logf("%d allocations: %s at the beginning, %s at the end, ratio %.2f", count, first, last, ratio)
			if ratio > limit {
				t.Errorf("an allocation takes %.2f times as long at the end as at the beginning", ratio)
			}
		})
	}
}
