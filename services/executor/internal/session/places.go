package session

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"
)

// target is a registry as it was configured, host:port. It is several when its
// host has several addresses.
type target struct{ registry, host, port string }

// place is one address of a registry.
type place struct {
	registry string // as it was configured
	address  string // ip:port
}

// places lists a target's addresses, each once. Where there are addresses of both
// families only those of IPv4 count: they are the same registries again.
func (t target) places(addresses []netip.Addr) []place {
	all := make([]netip.Addr, 0, len(addresses))
	four := false
	for _, a := range addresses {
		a = a.Unmap()
		all = append(all, a)
		four = four || a.Is4()
	}
	slices.SortFunc(all, netip.Addr.Compare)
	var places []place
	for _, a := range slices.Compact(all) {
		if a.Is4() == four {
			places = append(places, place{registry: t.registry, address: net.JoinHostPort(a.String(), t.port)})
		}
	}
	return places
}

// How often names are looked up, how soon again when that failed, and how long
// it may take.
const (
	lookEvery = 5 * time.Second
	lookAgain = time.Second
	lookFor   = 5 * time.Second
)

// lookup is a target and what the loop knows of its addresses.
type lookup struct {
	target
	known  []place
	cancel context.CancelFunc // while it is looked up, or nil
	at     time.Time          // of the next time
	said   string             // the last complaint, so that it is not repeated
}

// found is what looking up a target gave.
type found struct {
	lookup *lookup
	places []place
	err    error
}

// look asks for a target's addresses without waiting for them.
func (l *loop) look(k *lookup) {
	ctx, cancel := context.WithTimeout(l.ctx, lookFor)
	k.cancel = cancel
	go func() {
		defer cancel()
		addresses, err := l.config.Lookup(ctx, k.host)
		if err == nil && len(addresses) == 0 {
			err = errors.New("it has no address")
		}
		l.looked <- found{lookup: k, places: k.places(addresses), err: err}
	}()
}

// learn takes in where a target is now. What was known of it stands when looking
// it up failed.
func (l *loop) learn(f found, now time.Time) {
	k := f.lookup
	k.cancel = nil
	if f.err != nil {
		k.at = now.Add(lookAgain)
		why := "the address of the registry " + k.registry + " is not known: " + f.err.Error()
		if why != k.said {
			k.said = why
			l.config.Logger.Warn("A registry's address cannot be looked up; trying again", zap.String("registry", k.registry), zap.Error(f.err))
		}
		if len(l.peers) == 0 {
			l.trouble = why
		}
		return
	}
	k.at, k.said, k.known = now.Add(lookEvery), "", f.places
	for _, p := range l.peers {
		p.gone = !slices.ContainsFunc(l.lookups, func(k *lookup) bool {
			return slices.ContainsFunc(k.known, func(to place) bool { return to.address == p.address })
		})
	}
	for _, to := range k.known {
		if !slices.ContainsFunc(l.peers, func(p *peer) bool { return p.address == to.address }) {
			l.peers = append(l.peers, &peer{place: to})
		}
	}
}
