package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// body is the section with the command itself.
func body(command string) []byte {
	document, err := bson.Marshal(bson.D{{Key: command, Value: 1}, {Key: "$db", Value: "app"}})
	if err != nil {
		panic(err)
	}
	return append([]byte{0}, document...)
}

// sequence is a section with documents, which may stand before the body.
func sequence() []byte {
	document, err := bson.Marshal(bson.D{{Key: "hello", Value: 1}})
	if err != nil {
		panic(err)
	}
	rest := append([]byte("documents\x00"), document...)
	return append(binary.LittleEndian.AppendUint32([]byte{1}, uint32(4+len(rest))), rest...)
}

func wire(opcode, id, responseTo uint32, content []byte) message {
	m := binary.LittleEndian.AppendUint32(nil, uint32(headerBytes+len(content)))
	for _, n := range []uint32{id, responseTo, opcode} {
		m = binary.LittleEndian.AppendUint32(m, n)
	}
	return append(m, content...)
}

func msg(id, flags uint32, sections ...[]byte) message {
	return wire(opMsg, id, 0, append(binary.LittleEndian.AppendUint32(nil, flags), bytes.Join(sections, nil)...))
}

func TestReadMessage(t *testing.T) {
	ping := msg(1, 0, body("ping"))
	withLength := func(n int32) []byte {
		m := bytes.Clone(ping)
		binary.LittleEndian.PutUint32(m, uint32(n))
		return m
	}
	for name, test := range map[string]struct {
		in   []byte
		want error
		text string
	}{
		"whole":                   {in: ping},
		"two, the first is read":  {in: append(bytes.Clone(ping), ping...)},
		"nothing":                 {in: nil, want: io.EOF},
		"part of the header":      {in: ping[:7], want: io.ErrUnexpectedEOF},
		"header only":             {in: ping[:headerBytes], want: io.ErrUnexpectedEOF},
		"all but the last byte":   {in: ping[:len(ping)-1], want: io.ErrUnexpectedEOF},
		"shorter than its header": {in: withLength(15), text: "message length 15"},
		"negative length":         {in: withLength(-1), text: "message length -1"},
		"longest, cut":            {in: withLength(maxBytes), want: io.ErrUnexpectedEOF},
		"too long":                {in: withLength(maxBytes + 1), text: "message length 48000001"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := readMessage(bytes.NewReader(test.in))
			switch {
			case test.want != nil:
				if !errors.Is(err, test.want) {
					t.Fatalf("error %v, want %v", err, test.want)
				}
			case test.text != "":
				if err == nil || !strings.Contains(err.Error(), test.text) {
					t.Fatalf("error %v, want one with %q", err, test.text)
				}
			case err != nil:
				t.Fatal(err)
			case !bytes.Equal(got, ping):
				t.Fatalf("read %x, want %x", got, ping)
			}
		})
	}
}

func TestCommandAndTurn(t *testing.T) {
	update := msg(1, 0, body("update"))
	for name, test := range map[string]struct {
		in      message
		command string
		turn    bool
	}{
		"update":                   {in: update, command: "update", turn: true},
		"find":                     {in: msg(1, 0, body("find")), command: "find", turn: true},
		"body after its documents": {in: msg(1, 0, sequence(), body("insert")), command: "insert", turn: true},
		"hello":                    {in: msg(1, 0, body("hello")), command: "hello"},
		"isMaster":                 {in: msg(1, 0, body("isMaster")), command: "isMaster"},
		"ismaster":                 {in: msg(1, 0, body("ismaster")), command: "ismaster"},
		"getMore":                  {in: msg(1, 0, body("getMore")), command: "getMore"},
		"legacy greeting":          {in: wire(opQuery, 1, 0, body("isMaster"))},
		"unknown opcode":           {in: wire(2002, 1, 0, body("hello")), turn: true},
		"no sections":              {in: msg(1, 0), turn: true},
		"no flags":                 {in: wire(opMsg, 1, 0, []byte{0, 0}), turn: true},
		"unknown section":          {in: msg(1, 0, []byte{9, 9, 9, 9, 9, 9, 9, 9}), turn: true},
		"documents only":           {in: msg(1, 0, sequence()), turn: true},
		"documents beyond the end": {in: msg(1, 0, []byte{1, 0xff, 0, 0, 0, 'x', 0}), turn: true},
		"documents of length 0":    {in: msg(1, 0, []byte{1, 0, 0, 0, 0, 'x', 0}), turn: true},
		"body without a name":      {in: msg(1, 0, []byte{0, 9, 0, 0, 0}), turn: true},
		"name without an end":      {in: msg(1, 0, []byte{0, 9, 0, 0, 0, 1, 'h', 'e', 'l', 'l', 'o'}), turn: true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.in.command(); got != test.command {
				t.Errorf("command %q, want %q", got, test.command)
			}
			if got := test.in.needsTurn(); got != test.turn {
				t.Errorf("needs the turn: %v, want %v", got, test.turn)
			}
		})
	}
}

func TestAsking(t *testing.T) {
	plain := msg(7, 0, body("insert"))
	sum := []byte{1, 2, 3, 4}
	for name, test := range map[string]struct{ in, want message }{
		"no flags stay as they are":   {in: plain, want: plain},
		"a checksum alone stays":      {in: msg(7, checksumPresent, body("insert"), sum), want: msg(7, checksumPresent, body("insert"), sum)},
		"a reply is asked for":        {in: msg(7, moreToCome, body("insert")), want: plain},
		"a stream is not":             {in: msg(7, exhaustAllowed, body("insert")), want: plain},
		"the checksum goes with them": {in: msg(7, moreToCome|exhaustAllowed|checksumPresent, body("insert"), sum), want: plain},
		"other flags stay":            {in: msg(7, moreToCome|1<<17, body("insert")), want: msg(7, 1<<17, body("insert"))},
		"another opcode stays":        {in: wire(opQuery, 7, 0, []byte{2, 0, 0, 0}), want: wire(opQuery, 7, 0, []byte{2, 0, 0, 0})},
	} {
		t.Run(name, func(t *testing.T) {
			before := bytes.Clone(test.in)
			if got := test.in.asking(); !bytes.Equal(got, test.want) {
				t.Errorf("got  %x\nwant %x", got, test.want)
			}
			if !bytes.Equal(before, test.in) {
				t.Error("the message itself was changed")
			}
		})
	}
}

// Whatever arrives, the length of a message as read and as forwarded is what its header says, and
// nothing panics.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(msg(1, moreToCome|checksumPresent, sequence(), body("insert"), []byte{1, 2, 3, 4})))
	f.Add([]byte(msg(1, exhaustAllowed, body("hello"))))
	f.Add([]byte(wire(opMsg, 1, 0, []byte{2, 0, 1, 0})))
	f.Add([]byte(msg(1, 3, []byte{1, 0xff, 0xff, 0xff, 0xff})))
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := readMessage(bytes.NewReader(in))
		if err != nil {
			return
		}
		m.needsTurn()
		m.target()
		for _, one := range []message{m, m.asking()} {
			if length := binary.LittleEndian.Uint32(one); int(length) != len(one) {
				t.Errorf("header says %d, message has %d", length, len(one))
			}
		}
		if m.asking().flags()&(moreToCome|exhaustAllowed) != 0 {
			t.Error("no single reply is asked for")
		}
	})
}
