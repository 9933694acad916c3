package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meta-cni/meta-cni/pkg/wire"
)

// ask has the request answered by whoever does so in this mode.
func (p plugin) ask(req *wire.Request, c conf) (*wire.Reply, *wire.Error) {
	if c.Mode == thin {
		return p.askOneshot(req, c)
	}
	switch req.Command {
	case "DEL":
		return p.askDel(req, c)
	case "STATUS":
		by := time.Now().Add(p.budgets.status)
		reply, err := wire.Client{Socket: p.socket(c), AcceptBy: by, AnswerBy: by}.Do(context.Background(), req)
		if err != nil {
			return nil, unanswered(wire.CodeNotAvailable, req, err)
		}
		return reply, nil
	}
	reply, err := askDaemon(p.socket(c), req, p.budgets.taken, p.budgets.add)
	if err != nil {
		return nil, unanswered(wire.CodeTryAgainLater, req, err)
	}
	return reply, nil
}

// askDel asks the daemon, and puts the request on disk when it does not
// answer. A call by the daemon or one of its delegates is not put there: the
// daemon's journal has the attachment and repeats its DEL.
func (p plugin) askDel(req *wire.Request, c conf) (*wire.Reply, *wire.Error) {
	reply, err := askDaemon(p.socket(c), req, p.budgets.takenDel, p.budgets.del)
	if err == nil {
		return reply, nil
	}
	calledBack := p.getenv(wire.SocketEnv) != "" && req.Plugin != wire.PluginMeta
	if calledBack {
		return nil, unanswered(wire.CodeTryAgainLater, req, err)
	}
	if failed := c.spool().Put(req); failed != nil {
		problem := unanswered(wire.CodeTryAgainLater, req, errors.Join(err, failed))
		problem.Msg += ", and the DEL cannot be kept for later: " + failed.Error()
		return nil, problem
	}
	return &wire.Reply{}, nil
}

// askDaemon repeats the request until the daemon takes it, for as long as
// nobody is there, as in a restart.
func askDaemon(socket string, req *wire.Request, taken, answered time.Duration) (*wire.Reply, error) {
	now := time.Now()
	client := wire.Client{Socket: socket, AcceptBy: now.Add(taken), AnswerBy: now.Add(answered)}
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		reply, err := client.Do(context.Background(), req)
		if !errors.Is(err, wire.ErrNoDaemon) || time.Now().Add(pause).After(client.AcceptBy) {
			return reply, err
		}
		time.Sleep(pause) //nolint:forbidigo // a socket that is not there yet tells nobody when it is
	}
}

// unanswered says that the daemon did not answer, and where to look.
func unanswered(code uint, req *wire.Request, err error) *wire.Error {
	const look = "look on this node: systemctl status meta-cnid, or kubectl -n meta-cni get pods -o wide; then at the log of meta-cnid"
	e := &wire.Error{Code: code, Details: fmt.Sprintf("%v; %s", err, look)}
	switch {
	case errors.Is(err, wire.ErrNotPermitted):
		e.Msg = req.Command + ": the meta-cni daemon's socket does not permit this user"
	case errors.Is(err, wire.ErrNoDaemon):
		e.Msg = req.Command + ": the meta-cni daemon is not running on this node"
	case errors.Is(err, wire.ErrInterrupted):
		e.Msg = req.Command + ": the meta-cni daemon ended before it answered"
	case errors.Is(err, wire.ErrTimeout):
		e.Msg = req.Command + ": the meta-cni daemon does not answer in time"
	default: // the request itself cannot be sent
		return badEnvironment(fmt.Sprintf("%s: %v", req.Command, err))
	}
	return e
}
