package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// The tests run on a clock of their own (synctest) and on pipes, whose writes end only when the other
// side has read: nothing is buffered between the two.

const grace = time.Second

// house is a proxy that serves, with its fake server.
type house struct {
	t       *testing.T
	clients chan net.Conn
	closed  chan struct{}
	end     context.CancelFunc
	ended   chan error
	log     *observer.ObservedLogs
	faults  Faults
}

// serve starts a proxy. The server answers each message with what handle returns; nil cuts the
// connection. Unless the test did, the proxy is ended at the end of the test.
func serve(t *testing.T, handle func(request message) []byte) *house {
	return serveDial(t, func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer func() { _ = far.Close() }()
			for {
				request, err := readMessage(far)
				if err != nil {
					return
				}
				reply := handle(request)
				if reply == nil {
					return
				}
				if _, err := far.Write(reply); err != nil {
					return
				}
			}
		}()
		return near, nil
	})
}

func serveDial(t *testing.T, dial func(context.Context) (net.Conn, error)) *house {
	core, log := observer.New(zap.InfoLevel)
	ctx, end := context.WithCancel(t.Context())
	h := &house{t: t, clients: make(chan net.Conn), closed: make(chan struct{}), end: end, ended: make(chan error, 1), log: log}
	go func() {
		h.ended <- (&Proxy{Dial: dial, Logger: zap.New(core), Grace: grace, Faults: &h.faults}).Serve(ctx, h)
	}()
	t.Cleanup(end)
	return h
}

// house is also the listener, whose clients call connect.

var errListener = errors.New("the listener is closed")

func (h *house) Accept() (net.Conn, error) {
	select {
	case c := <-h.clients:
		return c, nil
	case <-h.closed:
		return nil, errListener
	}
}

func (h *house) Close() error {
	select {
	case <-h.closed:
	default:
		close(h.closed)
	}
	return nil
}

func (h *house) Addr() net.Addr { return &net.TCPAddr{} }

func (h *house) connect() net.Conn {
	near, far := net.Pipe()
	h.clients <- far
	h.t.Cleanup(func() { _ = near.Close() })
	return near
}

func (h *house) ask(client net.Conn, request message) message {
	h.t.Helper()
	if _, err := client.Write(request); err != nil {
		h.t.Fatal("write:", err)
	}
	return h.answer(client)
}

func (h *house) answer(client net.Conn) message {
	h.t.Helper()
	reply, err := readMessage(client)
	if err != nil {
		h.t.Fatal("read:", err)
	}
	return reply
}

func (h *house) wantWarnings(n int) {
	h.t.Helper()
	if h.log.Len() != n {
		h.t.Errorf("%d warnings, want %d: %v", h.log.Len(), n, h.log.All())
	}
}

// ok is the reply to a request: it says which one it answers.
func ok(request message) []byte {
	return wire(opMsg, 99, binary.LittleEndian.Uint32(request[4:]), append(make([]byte, 4), body("ok")...))
}

// pass lets fake time go by.
func pass(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	<-ctx.Done()
}

func TestOneMessageAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mutex sync.Mutex
		var inside, most, served int
		h := serve(t, func(request message) []byte {
			mutex.Lock()
			inside++
			most = max(most, inside)
			mutex.Unlock()
			pass(time.Millisecond) // every other client gets its chance to come in
			mutex.Lock()
			inside--
			served++
			mutex.Unlock()
			return ok(request)
		})
		const clients, each = 8, 20
		var group sync.WaitGroup
		for i := range clients {
			client := h.connect()
			group.Go(func() {
				for j := range each {
					id := uint32(i*each + j)
					if reply := h.ask(client, msg(id, 0, body("update"))); !bytes.Equal(reply, ok(msg(id, 0))) {
						t.Errorf("message %d got %x", id, reply)
					}
				}
			})
		}
		group.Wait()
		if most != 1 || served != clients*each {
			t.Errorf("%d served, %d at once", served, most)
		}
		h.end()
		if err := <-h.ended; err != nil {
			t.Error(err)
		}
		h.wantWarnings(0)
	})
}

// What waits inside the server must not keep others out.
func TestWaitingMessagesDoNotHoldTheTurn(t *testing.T) {
	for _, command := range []string{"hello", "getMore"} {
		t.Run(command, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				news := make(chan struct{})
				h := serve(t, func(request message) []byte {
					if request.command() == command {
						<-news
					}
					return ok(request)
				})
				waiting, other := h.connect(), h.connect()
				if _, err := waiting.Write(msg(1, exhaustAllowed, body(command))); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				h.ask(other, msg(2, 0, body("insert")))
				close(news)
				if reply := h.answer(waiting); !bytes.Equal(reply, ok(msg(1, 0))) {
					t.Errorf("got %x", reply)
				}
			})
		})
	}
}

func TestSlowClientsDoNotHoldTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := serve(t, ok)
		request := msg(1, 0, body("find"))

		sending, reading, other := h.connect(), h.connect(), h.connect()
		if _, err := sending.Write(request[:20]); err != nil {
			t.Fatal(err)
		}
		if _, err := reading.Write(request); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // one is half read; the other's reply is ready and nobody reads it
		h.ask(other, msg(2, 0, body("find")))

		if _, err := sending.Write(request[20:]); err != nil {
			t.Fatal(err)
		}
		h.answer(sending)
		h.answer(reading)
	})
}

func TestClientsThatVanish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mutex sync.Mutex
		var arrived []uint32
		release := make(chan struct{})
		h := serve(t, func(request message) []byte {
			mutex.Lock()
			arrived = append(arrived, binary.LittleEndian.Uint32(request[4:]))
			mutex.Unlock()
			if request.command() == "update" {
				<-release
			}
			return ok(request)
		})

		cut := h.connect()
		if _, err := cut.Write(msg(1, 0, body("insert"))[:30]); err != nil {
			t.Fatal(err)
		}
		_ = cut.Close()
		synctest.Wait()
		h.wantWarnings(1)

		gone := h.connect()
		if _, err := gone.Write(msg(2, 0, body("update"))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the server is at it
		_ = gone.Close()
		queued := h.connect()
		if _, err := queued.Write(msg(3, 0, body("insert"))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		mutex.Lock()
		before := len(arrived)
		mutex.Unlock()
		if before != 1 {
			t.Errorf("%d messages came in while the first was not answered", before)
		}
		close(release)
		h.answer(queued)
		mutex.Lock()
		defer mutex.Unlock()
		if want := []uint32{2, 3}; fmt.Sprint(arrived) != fmt.Sprint(want) {
			t.Errorf("the server got %v, want %v", arrived, want)
		}
		h.wantWarnings(2)
	})
}

// A server that answers only what wants an answer, as MongoDB, and one that always answers, as
// FerretDB, look the same through the proxy.
func TestUnacknowledgedRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen []uint32
		h := serve(t, func(request message) []byte {
			seen = append(seen, request.flags())
			return ok(request)
		})
		client := h.connect()
		if _, err := client.Write(msg(1, moreToCome, body("insert"))); err != nil {
			t.Fatal(err)
		}
		if reply := h.ask(client, msg(2, 0, body("ping"))); !bytes.Equal(reply, ok(msg(2, 0))) {
			t.Errorf("got %x", reply)
		}
		if seen[0] != 0 {
			t.Errorf("forwarded with flags %x", seen[0])
		}
	})
}

// Whatever goes wrong between the proxy and the server, the client's connection ends, and the others
// go on.
func TestServerFailures(t *testing.T) {
	for name, failed := range map[string][]byte{
		"cut before the reply":        nil,
		"cut in the middle":           ok(msg(1, 0))[:25],
		"a reply of impossible size":  append([]byte{1, 0, 0, 0}, make([]byte, 12)...),
		"a stream that nobody wanted": wire(opMsg, 1, 1, append([]byte{moreToCome, 0, 0, 0}, body("ok")...)),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := serveDial(t, func(context.Context) (net.Conn, error) {
					near, far := net.Pipe()
					go func() {
						defer func() { _ = far.Close() }()
						request, err := readMessage(far)
						if err != nil {
							return
						}
						if request.command() == "find" {
							_, _ = far.Write(ok(request))
							return
						}
						_, _ = far.Write(failed)
					}()
					return near, nil
				})
				client, other := h.connect(), h.connect()
				if _, err := client.Write(msg(1, 0, body("update"))); err != nil {
					t.Fatal(err)
				}
				if reply, err := readMessage(client); !errors.Is(err, io.EOF) {
					t.Errorf("got %x, %v; want the end", reply, err)
				}
				h.ask(other, msg(2, 0, body("find")))
				// It closed after its only answer: the next message cannot be forwarded.
				if _, err := other.Write(msg(3, 0, body("find"))); err != nil {
					t.Fatal(err)
				}
				if reply, err := readMessage(other); !errors.Is(err, io.EOF) {
					t.Errorf("got %x, %v; want the end", reply, err)
				}
				synctest.Wait()
				h.wantWarnings(2)
			})
		})
	}
}

func TestServerUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := serveDial(t, func(context.Context) (net.Conn, error) { return nil, errors.New("refused") })
		if _, err := readMessage(h.connect()); !errors.Is(err, io.EOF) {
			t.Errorf("got %v, want the end", err)
		}
		synctest.Wait()
		h.wantWarnings(1)
	})
}

func TestEndAnswersWhatIsAtHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := serve(t, func(request message) []byte {
			pass(grace / 2)
			return ok(request)
		})
		idle, busy := h.connect(), h.connect()
		if _, err := busy.Write(msg(1, 0, body("update"))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began := time.Now()
		h.end()
		if _, err := readMessage(idle); !errors.Is(err, io.EOF) || time.Since(began) != 0 {
			t.Errorf("the idle client got %v after %v, want the end at once", err, time.Since(began))
		}
		h.answer(busy)
		if err := <-h.ended; err != nil || time.Since(began) != grace/2 {
			t.Errorf("ended with %v after %v", err, time.Since(began))
		}
		h.wantWarnings(0)
	})
}

// Neither a server that hangs, nor the clients queued behind it, nor one that does not read its reply
// can keep the proxy from ending.
func TestEndCutsWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never := make(chan struct{})
		defer close(never)
		h := serve(t, func(request message) []byte {
			if request.command() == "update" {
				<-never
			}
			return ok(request)
		})
		requests := []message{msg(1, 0, body("find")), msg(2, 0, body("update")), msg(3, 0, body("find"))}
		for _, request := range requests {
			if _, err := h.connect().Write(request); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // in this order: reply not read, server hangs, queued
		}
		began := time.Now()
		h.end()
		if err := <-h.ended; err != nil || time.Since(began) != grace {
			t.Errorf("ended with %v after %v, want nil after %v", err, time.Since(began), grace)
		}
		h.wantWarnings(len(requests))
	})
}

func TestListenerFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := serve(t, ok)
		client := h.connect()
		h.ask(client, msg(1, 0, body("find")))
		_ = h.Close()
		if err := <-h.ended; !errors.Is(err, errListener) {
			t.Errorf("ended with %v, want %v", err, errListener)
		}
		if _, err := readMessage(client); !errors.Is(err, io.EOF) {
			t.Errorf("the client got %v, want the end", err)
		}
	})
}
