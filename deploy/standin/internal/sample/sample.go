// Package sample makes up the documents of an application that has been used for two years: the data
// that clean-up jobs are tried on. It is pure: the same seed and time give the same documents.
package sample

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// How many documents each collection gets: 10,000 in all.
const (
	Users    = 2000
	Sessions = 2500
	Logs     = 3000
	Messages = 1500
	Tickets  = 1000
)

// Years is how far the documents reach back from the reference time.
const Years = 2

// Collection is a named set of documents in the order of their _id, which is also the order of the
// time at which they were made.
type Collection struct {
	Name      string
	Documents []bson.D
}

// Generate makes up the collections users, sessions, logs, messages and tickets as they would stand
// at the given time. No date in them is after it, or more than Years before it; dates are UTC in
// whole milliseconds, as BSON keeps them.
func Generate(seed uint64, now time.Time) []Collection {
	now = now.UTC().Truncate(time.Millisecond)
	g := &generator{
		random: rand.New(rand.NewPCG(seed, 0x616c6d616e6163)),
		begin:  now.AddDate(-Years, 0, 0),
		now:    now,
	}
	people := make([]person, Users)
	for i := range people {
		people[i] = g.person(i)
	}
	return []Collection{
		collect("users", Users, func(i int) bson.D { return g.user(people[i]) }),
		collect("sessions", Sessions, func(int) bson.D { return g.session(people) }),
		collect("logs", Logs, func(int) bson.D { return g.log() }),
		collect("messages", Messages, func(int) bson.D { return g.message(people) }),
		collect("tickets", Tickets, func(int) bson.D { return g.ticket() }),
	}
}

func collect(name string, count int, document func(i int) bson.D) Collection {
	documents := make([]bson.D, count)
	for i := range documents {
		documents[i] = document(i)
	}
	slices.SortFunc(documents, func(a, b bson.D) int {
		left, right := a[0].Value.(bson.ObjectID), b[0].Value.(bson.ObjectID)
		return bytes.Compare(left[:], right[:])
	})
	return Collection{Name: name, Documents: documents}
}

type generator struct {
	random     *rand.Rand
	begin, now time.Time
	ids        uint32 // counts the ids given out
}

type person struct {
	id                  bson.ObjectID
	name, email         string
	created, lastActive time.Time
}

func (g *generator) person(number int) person {
	first, last := g.pick(firstNames), g.pick(lastNames)
	created := g.between(g.begin, g.between(g.begin, g.now)) // most of them came early
	return person{
		id:         g.id(created),
		name:       first + " " + last,
		email:      fmt.Sprintf("%s.%s%d@%s", strings.ToLower(first), strings.ToLower(last), number+1, g.pick(mailDomains)),
		created:    created,
		lastActive: g.lately(created, g.now),
	}
}

func (g *generator) user(p person) bson.D {
	return bson.D{
		{Key: "_id", Value: p.id},
		{Key: "name", Value: p.name},
		{Key: "email", Value: p.email},
		{Key: "role", Value: g.pick(roles)},
		{Key: "active", Value: p.lastActive.After(g.now.AddDate(0, -6, 0)) && g.random.IntN(20) > 0},
		{Key: "createdAt", Value: p.created},
		{Key: "lastActive", Value: p.lastActive},
	}
}

func (g *generator) session(people []person) bson.D {
	owner := people[g.random.IntN(len(people))]
	lastActive := g.between(owner.created, owner.lastActive)
	return bson.D{
		{Key: "_id", Value: g.id(g.between(owner.created, lastActive))},
		{Key: "userId", Value: owner.id},
		{Key: "ip", Value: fmt.Sprintf("198.51.100.%d", 1+g.random.IntN(254))},
		{Key: "userAgent", Value: g.pick(userAgents)},
		{Key: "lastActive", Value: lastActive},
	}
}

func (g *generator) log() bson.D {
	level := "INFO"
	switch n := g.random.IntN(100); {
	case n < 15:
		level = "DEBUG"
	case n < 30:
		level = "WARNING"
	case n < 38:
		level = "ERROR"
	}
	created := g.lately(g.begin, g.now)
	return bson.D{
		{Key: "_id", Value: g.id(created)},
		{Key: "level", Value: level},
		{Key: "service", Value: g.pick(services)},
		{Key: "message", Value: fmt.Sprintf(g.pick(logLines[level]), 1+g.random.IntN(900))},
		{Key: "createdAt", Value: created},
	}
}

func (g *generator) message(people []person) bson.D {
	from := g.random.IntN(len(people))
	to := (from + 1 + g.random.IntN(len(people)-1)) % len(people) // anyone else
	earliest := people[from].created
	if people[to].created.After(earliest) {
		earliest = people[to].created
	}
	created := g.between(earliest, g.now)
	return bson.D{
		{Key: "_id", Value: g.id(created)},
		{Key: "from", Value: people[from].email},
		{Key: "to", Value: people[to].email},
		{Key: "body", Value: g.pick(greetings) + ", " + g.pick(remarks) + ". " + g.pick(closings)},
		{Key: "createdAt", Value: created},
	}
}

func (g *generator) ticket() bson.D {
	created := g.lately(g.begin, g.now)
	// Work on a ticket takes an hour to 25 days; one in twelve is never finished.
	finished := created.Add(time.Hour + time.Duration(g.random.Int64N(int64(25*24*time.Hour)))).Truncate(time.Millisecond)
	done := finished.Before(g.now) && g.random.IntN(12) > 0
	status := g.pick([]string{"open", "in_progress"})
	if done {
		status = g.pick([]string{"resolved", "resolved", "closed"})
	}
	ticket := bson.D{
		{Key: "_id", Value: g.id(created)},
		{Key: "title", Value: g.pick(troubles) + " " + g.pick(places)},
		{Key: "status", Value: status},
		{Key: "priority", Value: g.pick(priorities)},
		{Key: "createdAt", Value: created},
	}
	if done {
		ticket = append(ticket, bson.E{Key: "resolvedAt", Value: finished})
	}
	return ticket
}

func (g *generator) pick(from []string) string {
	return from[g.random.IntN(len(from))]
}

// between is any time from a to b.
func (g *generator) between(a, b time.Time) time.Time {
	return a.Add(time.Duration(g.random.Int64N(int64(b.Sub(a)) + 1))).Truncate(time.Millisecond)
}

// lately is a time from a to b, rather near b.
func (g *generator) lately(a, b time.Time) time.Time {
	return g.between(g.between(a, b), b)
}

// id is an ObjectID as a driver would have made it at the given time, except that it comes from the
// seed.
func (g *generator) id(at time.Time) bson.ObjectID {
	id := bson.NewObjectIDFromTimestamp(at)
	g.ids++
	copy(id[4:], "smpl")
	id[8], id[9], id[10], id[11] = byte(g.ids>>24), byte(g.ids>>16), byte(g.ids>>8), byte(g.ids)
	return id
}
