// Package proxy stands between MongoDB clients and a server whose updates are not atomic, and lets
// one message through at a time, across all connections.
//
// Each client connection has a connection of its own to the server, for a server keeps state by
// connection. A message passes in five steps:
//
//  1. the whole request is read from the client,
//  2. the turn is taken,
//  3. the request is forwarded and the whole reply is read,
//  4. the turn is given back,
//  5. the reply is written to the client.
//
// So a client that is slow, or vanishes in the middle of a message, never holds the turn: it is held
// only while the server works. A request that was cut short never reaches the server. A client that
// vanishes later has its request carried out nevertheless, as with any server.
//
// A Fault may come between: before the turn is taken or after it was given back, so that a message that is
// delayed does not hold up the others.
//
// Streams are not offered: a request that allows one (exhaustAllowed) gets a single reply, which
// the protocol permits. A request that wants no reply (moreToCome) is made to want one, which is then
// dropped, for the turn may be given back only when the server is done with it.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Proxy passes messages from clients to one server. Its fields are set before Serve and not changed
// after it; Serve is called once.
type Proxy struct {
	// Dial opens a connection to the server.
	Dial func(context.Context) (net.Conn, error)
	// Logger gets a warning for each connection that ended by an error.
	Logger *zap.Logger
	// Grace is how long messages that were being answered may take after the end of Serve's context.
	Grace time.Duration
	// Faults are what is done to messages that pass. Nil means nothing, ever.
	Faults *Faults
}

// Serve accepts connections until ctx ends; then it answers the messages at hand, for at most Grace,
// and returns nil once every connection is closed. It closes the listener. It returns an error when the
// listener fails before ctx ends.
func (p *Proxy) Serve(ctx context.Context, listener net.Listener) error {
	// hard ends Grace after ctx: it closes what is still open.
	hard, cutOff := context.WithCancel(context.WithoutCancel(ctx))
	defer cutOff()

	turn := make(chan struct{}, 1)
	stopListening := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stopListening()

	var connections sync.WaitGroup
	var failure error
	for {
		client, err := listener.Accept()
		if err != nil {
			if ctx.Err() == nil {
				failure = fmt.Errorf("accept a connection: %w", err)
				_ = listener.Close()
				cutOff()
			}
			break
		}
		connections.Go(func() {
			if err := p.serveClient(ctx, hard, turn, client); err != nil {
				p.Logger.Warn("connection ended", zap.Stringer("client", client.RemoteAddr()), zap.Error(err))
			}
		})
	}

	ended := make(chan struct{})
	go func() {
		connections.Wait()
		close(ended)
	}()
	graceOver, cancel := context.WithTimeout(hard, p.Grace)
	defer cancel()
	select {
	case <-ended:
	case <-graceOver.Done():
		cutOff()
		<-ended
	}
	return failure
}

// serveClient passes the messages of one client until it leaves (nil), soft ends (nil) or something
// fails. When hard ends, both connections are closed, whatever they are doing.
func (p *Proxy) serveClient(soft, hard context.Context, turn chan struct{}, client net.Conn) error {
	defer func() { _ = client.Close() }()
	backend, err := p.Dial(hard)
	if err != nil {
		return fmt.Errorf("connect to the server: %w", err)
	}
	defer func() { _ = backend.Close() }()

	stopReading := context.AfterFunc(soft, func() { _ = client.SetReadDeadline(time.Unix(1, 0)) })
	defer stopReading()
	stopAll := context.AfterFunc(hard, func() {
		_ = client.Close()
		_ = backend.Close()
	})
	defer stopAll()

	for {
		request, err := readMessage(client)
		switch {
		case errors.Is(err, io.EOF), soft.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("read a request: %w", err)
		}
		reply, err := p.answer(hard, turn, backend, request)
		if errors.Is(err, errCut) {
			return nil
		}
		if err != nil {
			return err
		}
		if request.flags()&moreToCome != 0 {
			continue
		}
		if _, err := client.Write(reply); err != nil {
			return fmt.Errorf("write a reply: %w", err)
		}
	}
}

// errCut ends a connection because a fault says so.
var errCut = errors.New("cut on purpose")

// answer returns the reply to a request, as the faults leave it. It returns errCut when the client is to
// get none.
func (p *Proxy) answer(ctx context.Context, turn chan struct{}, backend net.Conn, request message) (message, error) {
	var s *strike
	if p.Faults != nil {
		s = p.Faults.choose(request)
	}
	if s == nil {
		return exchange(ctx, turn, backend, request)
	}
	switch s.action {
	case CutBefore:
		return nil, errCut
	case Refuse:
		return request.refusal(s.code)
	case DelayBefore:
		s.wait(ctx)
	case CutAfter, DelayAfter: // below
	}
	reply, err := exchange(ctx, turn, backend, request)
	if err != nil {
		return nil, err
	}
	if s.action == CutAfter {
		return nil, errCut
	}
	if s.action == DelayAfter {
		s.wait(ctx)
	}
	return reply, nil
}

// exchange carries one request to the server and its reply back, with the turn held where the
// request needs it.
func exchange(ctx context.Context, turn chan struct{}, backend net.Conn, request message) (message, error) {
	if request.needsTurn() {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the turn: %w", ctx.Err())
		}
	}
	if _, err := backend.Write(request.asking()); err != nil {
		return nil, fmt.Errorf("forward a request: %w", err)
	}
	reply, err := readMessage(backend)
	if err != nil {
		return nil, fmt.Errorf("read the server's reply: %w", err)
	}
	if reply.flags()&moreToCome != 0 {
		return nil, errors.New("the server began a stream that was not asked for")
	}
	return reply, nil
}
