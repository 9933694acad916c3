package dir

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/meta-cni/meta-cni/pkg/ipam"
)

// The environment of another process: the folder, what it does there, who it
// is.
const (
	childDir  = "IPAM_DIR_CHILD"
	childWork = "IPAM_DIR_WORK"
	childName = "IPAM_DIR_NAME"
)

func claimRef(n int) ipam.ClaimRef {
	return ipam.ClaimRef{Space: "default", Addr: netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})}
}

func blockRef(n int) ipam.BlockRef {
	return ipam.BlockRef{Space: "default", Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(n >> 2), byte(n << 6)}), 26)}
}

// child is another process on the same folder.
func child() {
	ctx := context.Background()
	s, err := Open(ctx, os.Getenv(childDir))
	quit(err)
	work, arg, _ := strings.Cut(os.Getenv(childWork), " ")
	n, _ := strconv.Atoi(arg)
	name := os.Getenv(childName)
	switch work {
	case "create":
		say("ready")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // all begin at once
		quit(createAll(ctx, s, name, n))
	case "churn":
		say("ready")
		go func() { // it ends with the test, however that ends
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(1)
		}()
		churn(ctx, s, name)
	case "each":
		quit(each(ctx, s))
	case "hold":
		unlock, err := s.lock(ctx, "default")
		quit(err)
		say("ready")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		unlock()
	}
}

func say(words ...any) { fmt.Fprintln(os.Stdout, words...) }

func quit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// createAll tries to be the one that makes each claim.
func createAll(ctx context.Context, s *Store, name string, n int) error {
	for i := range n {
		made, err := s.CreateClaim(ctx, ipam.Claim{Ref: claimRef(i), State: ipam.Bound, Node: ipam.Node{Name: name}})
		if err == nil {
			say("won", i, made.Version.UID)
		} else if !errors.Is(err, ipam.ErrExists) {
			return err
		}
	}
	return nil
}

// churn takes and gives back addresses until it is killed. What it says it has,
// it has until it says that it gives it back.
func churn(ctx context.Context, s *Store, name string) {
	for kept := 0; ; {
		i := rand.IntN(100)
		c, err := s.CreateClaim(ctx, ipam.Claim{Ref: claimRef(i), State: ipam.Bound, Node: ipam.Node{Name: name}})
		if errors.Is(err, ipam.ErrExists) {
			continue
		}
		quit(err)
		say("has", i, c.Version.UID)
		c.State = ipam.Cooling
		c, err = s.UpdateClaim(ctx, c)
		quit(err)
		if kept < 10 && rand.IntN(3) == 0 {
			kept++
			continue
		}
		say("gives", i, c.Version.UID)
		quit(s.DeleteClaim(ctx, c.Ref, c.Version))
	}
}

// each does every kind of write once; it may have been cut short before.
func each(ctx context.Context, s *Store) error {
	if _, err := s.Space(ctx, ipam.Space{Name: "default", Grid: grid()}); err != nil {
		return err
	}
	b, err := s.CreateBlock(ctx, ipam.Block{Ref: blockRef(1), Mode: ipam.Leased, Owner: ipam.Node{Name: "n1"}})
	if errors.Is(err, ipam.ErrExists) {
		b, err = s.GetBlock(ctx, blockRef(1))
	}
	if err != nil {
		return err
	}
	say("created")
	b.Mode, b.Owner = ipam.Shared, ipam.Node{}
	if b, err = s.UpdateBlock(ctx, b); err != nil {
		return err
	}
	say("updated")
	if b.Version, err = s.Mirror(ctx, ipam.Usage{Ref: b.Ref, Version: b.Version, Bitmap: []byte{1}}); err != nil {
		return err
	}
	if err := s.Ask(ctx, "n1", blockRef(2)); err != nil {
		return err
	}
	say("asked")
	if err := s.Answered(ctx, "n1", []ipam.BlockRef{blockRef(2)}); err != nil {
		return err
	}
	say("answered")
	if err := s.DeleteBlock(ctx, b.Ref, b.Version); err != nil {
		return err
	}
	say("deleted")
	return nil
}
