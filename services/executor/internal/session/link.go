package session

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	almanacv1 "github.com/almanac-scheduler/almanac/proto/gen/almanac/v1"
)

// transport is what a session needs of a gRPC stream.
type transport interface {
	Send(*almanacv1.LeaseRequest) error
	Recv() (*almanacv1.LeaseResponse, error)
	CloseSend() error
	// Close lets go of the connection below.
	Close()
}

// connection is a stream with a connection of its own, so that the delay between
// two attempts is the session's alone to decide.
type connection struct {
	grpc.BidiStreamingClient[almanacv1.LeaseRequest, almanacv1.LeaseResponse]
	conn *grpc.ClientConn
}

// Close ends the connection.
func (c connection) Close() { c.conn.Close() }

// dial opens a stream to one address. The name that it stands for is the one that
// a certificate must carry, unless the transport has a server name of its own.
func dial(ctx context.Context, to place, serverName string, options []grpc.DialOption) (transport, error) {
	if serverName == "" {
		options = append(options[:len(options):len(options)], grpc.WithAuthority(to.registry))
	}
	conn, err := grpc.NewClient("passthrough:///"+to.address, options...)
	if err != nil {
		return nil, err
	}
	lease, err := almanacv1.NewLeaseServiceClient(conn).Lease(ctx)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return connection{lease, conn}, nil
}

// link is a live stream with the two goroutines that serve it. The loop owns it.
type link struct {
	stream    *stream
	welcomeBy time.Time
	out       chan *almanacv1.LeaseRequest // capacity 1; its end closes our side
	sending   bool                         // the frame given to out was not sent yet
	close     func()                       // waits for the goroutines
}

// news is what a link tells the loop: a frame that came, the end, or, when it is
// neither, that the frame given to it was sent.
type news struct {
	peer  *peer
	frame *almanacv1.LeaseResponse
	err   error
}

// newLink serves a stream until the link is closed, after which it tells no more.
func newLink(p *peer, t transport, cancel context.CancelFunc, tell chan<- news) *link {
	l := &link{out: make(chan *almanacv1.LeaseRequest, 1)}
	gone := make(chan struct{})
	say := func(n news) {
		n.peer = p
		select {
		case tell <- n:
		case <-gone:
		}
	}
	var both sync.WaitGroup
	both.Go(func() {
		for {
			select {
			case frame, ok := <-l.out:
				if !ok {
					_ = t.CloseSend() // Recv says how the stream ends
					return
				}
				if t.Send(frame) != nil {
					return // Recv has the reason
				}
				say(news{})
			case <-gone:
				return
			}
		}
	})
	both.Go(func() {
		for {
			frame, err := t.Recv()
			say(news{frame: frame, err: err})
			if err != nil {
				return
			}
			select {
			case <-gone:
				return
			default:
			}
		}
	})
	l.close = func() {
		close(gone)
		cancel()
		both.Wait()
		t.Close()
	}
	return l
}
