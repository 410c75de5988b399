package proxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// to is a message with a command for a collection.
func to(command, collection string) message {
	document, err := bson.Marshal(bson.D{{Key: command, Value: collection}, {Key: "$db", Value: "app"}})
	if err != nil {
		panic(err)
	}
	return msg(1, 0, append([]byte{0}, document...))
}

func more(collection string) message {
	document, err := bson.Marshal(bson.D{{Key: "getMore", Value: int64(1)}, {Key: "collection", Value: collection}, {Key: "$db", Value: "app"}})
	if err != nil {
		panic(err)
	}
	return msg(1, 0, append([]byte{0}, document...))
}

// Each fault, met by one update: whether the server gets it, whether and when the client is answered.
func TestActions(t *testing.T) {
	const delay = 40 * time.Millisecond
	for name, test := range map[string]struct {
		fault    Fault
		reached  bool
		answered bool
		after    time.Duration
	}{
		"none":         {fault: Fault{Command: "insert", Action: CutBefore}, reached: true, answered: true},
		"cut before":   {fault: Fault{Command: "update", Action: CutBefore}},
		"cut after":    {fault: Fault{Command: "update", Action: CutAfter}, reached: true},
		"delay before": {fault: Fault{Command: "update", Action: DelayBefore, DelayMS: 40}, reached: true, answered: true, after: delay},
		"delay after":  {fault: Fault{Command: "update", Action: DelayAfter, DelayMS: 40}, reached: true, answered: true, after: delay},
		"refuse":       {fault: Fault{Command: "update", Action: Refuse, Code: 189}, answered: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var reached []time.Duration
				began := time.Now()
				h := serve(t, func(request message) []byte {
					reached = append(reached, time.Since(began))
					return ok(request)
				})
				if _, err := h.faults.Set(test.fault); err != nil {
					t.Fatal(err)
				}
				client := h.connect()
				if _, err := client.Write(to("update", "things")); err != nil {
					t.Fatal(err)
				}
				reply, err := readMessage(client)
				if took := time.Since(began); took != test.after {
					t.Errorf("it took %v, want %v", took, test.after)
				}
				if (len(reached) > 0) != test.reached {
					t.Errorf("the server got it: %v, want %v", len(reached) > 0, test.reached)
				}
				if test.fault.Action == DelayBefore && reached[0] != delay || test.fault.Action == DelayAfter && reached[0] != 0 {
					t.Errorf("the server got it after %v", reached[0])
				}
				switch {
				case !test.answered:
					if !errors.Is(err, io.EOF) {
						t.Errorf("got %x, %v; want the end", reply, err)
					}
				case err != nil:
					t.Error(err)
				case test.fault.Action == Refuse:
					var refusal struct {
						OK   float64
						Code int
					}
					if err := bson.Unmarshal(reply.body(), &refusal); err != nil || refusal.OK != 0 || refusal.Code != 189 {
						t.Errorf("got %+v, %v; want code 189", refusal, err)
					}
					if to := binary.LittleEndian.Uint32(reply[8:]); to != 1 {
						t.Errorf("it answers message %d, want 1", to)
					}
				case !bytes.Equal(reply, ok(to("update", ""))):
					t.Errorf("got %x", reply)
				}
				h.wantWarnings(0)
			})
		})
	}
}

// A message that is delayed is on its way; it keeps nobody from the server.
func TestDelaysDoNotHoldTheTurn(t *testing.T) {
	for _, action := range []Action{DelayBefore, DelayAfter} {
		t.Run(string(action), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := serve(t, ok)
				id, err := h.faults.Set(Fault{Command: "update", Action: action, DelayMS: 1000})
				if err != nil {
					t.Fatal(err)
				}
				slow, other := h.connect(), h.connect()
				began := time.Now()
				if _, err := slow.Write(to("update", "things")); err != nil {
					t.Fatal(err)
				}
				if counted, err := h.faults.Await(t.Context(), id, 1); err != nil || counted.Fired != 1 {
					t.Fatalf("%+v, %v", counted, err)
				}
				h.ask(other, to("insert", "things"))
				if took := time.Since(began); took != 0 {
					t.Errorf("the other waited for %v", took)
				}
				if err := h.faults.Remove(id); err != nil {
					t.Fatal(err)
				}
				h.answer(slow)
				if took := time.Since(began); took != 0 {
					t.Errorf("the fault is gone, yet it was delayed for %v", took)
				}
			})
		})
	}
}

// A client that gives up on a delayed message does not take it back: it arrives late.
func TestDelayedMessageArrivesWithoutItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		arrived := make(chan string, 1)
		h := serve(t, func(request message) []byte {
			arrived <- request.command()
			return ok(request)
		})
		if _, err := h.faults.Set(Fault{Command: AnyCommand, Action: DelayBefore, DelayMS: 1000}); err != nil {
			t.Fatal(err)
		}
		client := h.connect()
		if _, err := client.Write(to("update", "things")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		_ = client.Close()
		began := time.Now()
		if command := <-arrived; command != "update" || time.Since(began) != time.Second {
			t.Errorf("%s arrived after %v", command, time.Since(began))
		}
	})
}

func TestEndCutsDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := serve(t, ok)
		if _, err := h.faults.Set(Fault{Command: AnyCommand, Action: DelayAfter, DelayMS: 1000 * 3600}); err != nil {
			t.Fatal(err)
		}
		if _, err := h.connect().Write(to("update", "things")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began := time.Now()
		h.end()
		if err := <-h.ended; err != nil || time.Since(began) != grace {
			t.Errorf("ended with %v after %v, want nil after %v", err, time.Since(began), grace)
		}
	})
}

func TestSelection(t *testing.T) {
	for name, test := range map[string]struct {
		fault Fault
		in    message
		want  bool
	}{
		"command":                     {Fault{Command: "update"}, to("update", "things"), true},
		"another command":             {Fault{Command: "update"}, to("insert", "things"), false},
		"any":                         {Fault{Command: "any"}, to("ping", ""), true},
		"collection":                  {Fault{Command: "any", Collection: "things"}, to("update", "things"), true},
		"another collection":          {Fault{Command: "any", Collection: "things"}, to("update", "others"), false},
		"collection of getMore":       {Fault{Command: "getMore", Collection: "things"}, more("things"), true},
		"other collection of getMore": {Fault{Command: "getMore", Collection: "things"}, more("others"), false},
		"no collection":               {Fault{Command: "any", Collection: "things"}, msg(1, 0, body("ping")), false},
		"database":                    {Fault{Command: "any", Database: "app"}, to("update", "things"), true},
		"another database":            {Fault{Command: "any", Database: "other"}, to("update", "things"), false},
		"text":                        {Fault{Command: "any", Contains: "thing"}, to("update", "things"), true},
		"another text":                {Fault{Command: "any", Contains: "thong"}, to("update", "things"), false},
		"documents before the body":   {Fault{Command: "insert", Database: "app"}, msg(1, 0, sequence(), body("insert")), true},
		"a checksum behind it":        {Fault{Command: "ping", Database: "app"}, msg(1, checksumPresent, body("ping"), []byte{1, 2, 3, 4}), true},
		"a broken body":               {Fault{Command: "any", Database: "app"}, msg(1, 0, []byte{0, 9, 0, 0, 0, 2, 'x', 0, 9}), false},
		"no body":                     {Fault{Command: "any", Database: "app"}, msg(1, 0), false},
		"legacy greeting":             {Fault{Command: "any", Action: CutBefore}, wire(opQuery, 1, 0, body("isMaster")), true},
		"legacy greeting, by command": {Fault{Command: "isMaster", Action: CutBefore}, wire(opQuery, 1, 0, body("isMaster")), false},
		"legacy greeting, refused":    {Fault{Command: "any", Action: Refuse}, wire(opQuery, 1, 0, body("isMaster")), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.fault.selects(test.in); got != test.want {
				t.Errorf("selected: %v, want %v", got, test.want)
			}
		})
	}
}

// strikes tells for each of n updates whether a fault acts on it.
func strikes(f *Faults, n int) string {
	var b strings.Builder
	for range n {
		if f.choose(to("update", "things")) == nil {
			b.WriteByte('.')
		} else {
			b.WriteByte('x')
		}
	}
	return b.String()
}

func TestHowOften(t *testing.T) {
	for name, test := range map[string]struct {
		fault Fault
		want  string
	}{
		"every":             {Fault{}, "xxxxxxxx"},
		"the next two":      {Fault{Count: 2}, "xx......"},
		"all but three":     {Fault{Skip: 3}, "...xxxxx"},
		"the fourth":        {Fault{Skip: 3, Count: 1}, "...x...."},
		"surely":            {Fault{Probability: 1}, "xxxxxxxx"},
		"another's message": {Fault{Collection: "others"}, "........"},
	} {
		t.Run(name, func(t *testing.T) {
			var f Faults
			test.fault.Command, test.fault.Action = "update", CutBefore
			if _, err := f.Set(test.fault); err != nil {
				t.Fatal(err)
			}
			if got := strikes(&f, len(test.want)); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			selected := len(test.want)
			if test.fault.Collection != "" {
				selected = 0
			}
			if c := f.List()[0]; c.Selected != selected || c.Fired != strings.Count(test.want, "x") {
				t.Errorf("counted %+v", c)
			}
		})
	}
}

func TestProbability(t *testing.T) {
	run := func(seed uint64) string {
		var f Faults
		if _, err := f.Set(Fault{Command: "update", Action: CutAfter, Probability: 0.25, Seed: seed}); err != nil {
			t.Fatal(err)
		}
		return strikes(&f, 1000)
	}
	first := run(1)
	if n := strings.Count(first, "x"); n < 200 || n > 300 {
		t.Errorf("acted %d times of 1000, want about 250", n)
	}
	if run(1) != first {
		t.Error("the same seed chose differently")
	}
	if run(2) == first {
		t.Error("another seed chose the same")
	}
}

// The first one set acts; when it is spent the next has its turn.
func TestOrder(t *testing.T) {
	var f Faults
	for _, fault := range []Fault{
		{Command: "any", Collection: "things", Action: CutBefore, Count: 1},
		{Command: "update", Action: Refuse, Code: 91},
	} {
		if _, err := f.Set(fault); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []Action{CutBefore, Refuse, Refuse} {
		if got := f.choose(to("update", "things")); got == nil || got.action != want {
			t.Errorf("message %d: %+v, want %s", i, got, want)
		}
	}
	f.Clear()
	if got := f.choose(to("update", "things")); got != nil || len(f.List()) != 0 {
		t.Errorf("cleared, yet %+v", got)
	}
}

func TestSetRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		fault Fault
		want  string
	}{
		"no command":          {Fault{Action: CutBefore}, "command is missing"},
		"no action":           {Fault{Command: "any"}, `action ""`},
		"another action":      {Fault{Command: "any", Action: "burn"}, `"burn"`},
		"delay without time":  {Fault{Command: "any", Action: DelayAfter}, "delay_ms"},
		"time without delay":  {Fault{Command: "any", Action: CutAfter, DelayMS: 1}, "delay_ms"},
		"refuse without code": {Fault{Command: "any", Action: Refuse}, "code"},
		"code without refuse": {Fault{Command: "any", Action: CutAfter, Code: 91}, "code"},
		"negative skip":       {Fault{Command: "any", Action: CutAfter, Skip: -1}, "skip"},
		"negative count":      {Fault{Command: "any", Action: CutAfter, Count: -1}, "count"},
		"more than surely":    {Fault{Command: "any", Action: CutAfter, Probability: 1.1}, "probability"},
	} {
		t.Run(name, func(t *testing.T) {
			var f Faults
			if _, err := f.Set(test.fault); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
			if len(f.List()) != 0 {
				t.Error("it was set")
			}
		})
	}
}

func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Faults
		id, err := f.Set(Fault{Command: "update", Action: CutBefore})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Await(t.Context(), id+1, 0); !errors.Is(err, ErrNoFault) {
			t.Errorf("got %v, want %v", err, ErrNoFault)
		}
		if err := f.Remove(id + 1); !errors.Is(err, ErrNoFault) {
			t.Errorf("got %v, want %v", err, ErrNoFault)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := f.Await(ctx, id, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
		}
		waited := make(chan error)
		go func() {
			_, err := f.Await(t.Context(), id, 2)
			waited <- err
		}()
		synctest.Wait()
		strikes(&f, 1)
		synctest.Wait()
		select {
		case err := <-waited:
			t.Fatal("it waited for one only: ", err)
		default:
		}
		strikes(&f, 1)
		if err := <-waited; err != nil {
			t.Error(err)
		}
		go func() {
			_, err := f.Await(t.Context(), id, 9)
			waited <- err
		}()
		synctest.Wait()
		f.Clear()
		if err := <-waited; !errors.Is(err, ErrNoFault) {
			t.Errorf("got %v, want %v", err, ErrNoFault)
		}
	})
}

func TestRefusalOfWhatWantsNoReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := serve(t, ok)
		if _, err := h.faults.Set(Fault{Command: "insert", Action: Refuse, Code: 91}); err != nil {
			t.Fatal(err)
		}
		client := h.connect()
		if _, err := client.Write(msg(1, moreToCome, body("insert"))); err != nil {
			t.Fatal(err)
		}
		if reply := h.ask(client, msg(2, 0, body("ping"))); !bytes.Equal(reply, ok(msg(2, 0))) {
			t.Errorf("got %x, though no reply was asked for", reply)
		}
	})
}
