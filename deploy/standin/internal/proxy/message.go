package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// The wire protocol's numbers that matter here.
const (
	headerBytes = 16         // length, request id, response to, opcode: four little-endian int32
	maxBytes    = 48_000_000 // the longest message that MongoDB servers announce and accept

	opQuery = 2004 // legacy; drivers open a connection with it
	opMsg   = 2013

	checksumPresent = 1 << 0  // a CRC-32C follows the sections
	moreToCome      = 1 << 1  // in a request: send no reply; in a reply: another one follows
	exhaustAllowed  = 1 << 16 // in a request: the reply may be a stream
)

// message is one whole wire message, header included.
type message []byte

// readMessage reads one whole message. io.EOF means that the peer closed between messages; a
// message cut short is io.ErrUnexpectedEOF. Memory grows with the bytes that arrive, so that a
// header which promises much costs nothing by itself.
func readMessage(r io.Reader) (message, error) {
	var header [headerBytes]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	length := int64(int32(binary.LittleEndian.Uint32(header[:])))
	if length < headerBytes || length > maxBytes {
		return nil, fmt.Errorf("message length %d is not within %d and %d", length, headerBytes, maxBytes)
	}
	var whole bytes.Buffer
	whole.Write(header[:])
	if _, err := io.CopyN(&whole, r, length-headerBytes); errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	} else if err != nil {
		return nil, err
	}
	return whole.Bytes(), nil
}

func (m message) opcode() int32 {
	return int32(binary.LittleEndian.Uint32(m[12:]))
}

// flags is 0 for anything but an OP_MSG.
func (m message) flags() uint32 {
	if m.opcode() != opMsg || len(m) < headerBytes+4 {
		return 0
	}
	return binary.LittleEndian.Uint32(m[headerBytes:])
}

// asking returns the message as one that gets exactly one reply: without moreToCome and
// exhaustAllowed. A checksum is dropped with them, for it would no longer fit.
func (m message) asking() message {
	flags := m.flags()
	if flags&(moreToCome|exhaustAllowed) == 0 {
		return m
	}
	end := len(m)
	if flags&checksumPresent != 0 && end >= headerBytes+4+4 {
		end -= 4
	}
	asking := bytes.Clone(m[:end])
	binary.LittleEndian.PutUint32(asking, uint32(end))
	binary.LittleEndian.PutUint32(asking[headerBytes:], flags&^(moreToCome|exhaustAllowed|checksumPresent))
	return asking
}

// command names the command of an OP_MSG: the first key of its body section. It is empty when the
// message is no OP_MSG or not well formed; to refuse such a message is the server's business.
func (m message) command() string {
	body := m.body()
	// int32 size, the type of the first element, its name ending in 0
	if len(body) < 5 {
		return ""
	}
	name, _, found := bytes.Cut(body[5:], []byte{0})
	if !found {
		return ""
	}
	return string(name)
}

// body returns an OP_MSG from its command's document on, whose well-formedness nobody has checked, or
// nil when there is none.
func (m message) body() []byte {
	if m.opcode() != opMsg || len(m) < headerBytes+4 {
		return nil
	}
	const kindBody, kindSequence = 0, 1
	for rest := m[headerBytes+4:]; len(rest) >= 5; {
		kind, size := rest[0], int64(int32(binary.LittleEndian.Uint32(rest[1:])))
		switch kind {
		case kindBody:
			return rest[1:]
		case kindSequence:
			if size < 4 || 1+size > int64(len(rest)) {
				return nil
			}
			rest = rest[1+size:]
		default:
			return nil
		}
	}
	return nil
}

// target names what the command is for; what it does not name is empty.
func (m message) target() (database, collection string) {
	body := bson.Raw(m.body())
	if len(body) < 5 {
		return "", ""
	}
	if size := int64(int32(binary.LittleEndian.Uint32(body))); size >= 5 && size <= int64(len(body)) {
		body = body[:size]
	}
	if body.Validate() != nil {
		return "", ""
	}
	database, _ = body.Lookup("$db").StringValueOK()
	field := m.command()
	if field == "getMore" {
		field = "collection" // it begins with the cursor's number
	}
	collection, _ = body.Lookup(field).StringValueOK()
	return database, collection
}

// refusal is a server's answer to the message: the command failed with the code.
func (m message) refusal(code int32) (message, error) {
	document, err := bson.Marshal(bson.D{
		{Key: "ok", Value: 0.0},
		{Key: "code", Value: code},
		{Key: "errmsg", Value: "refused by a fault that a test has set"},
	})
	if err != nil {
		return nil, fmt.Errorf("build a refusal: %w", err)
	}
	reply := make(message, 0, headerBytes+5+len(document))
	reply = binary.LittleEndian.AppendUint32(reply, uint32(headerBytes+5+len(document)))
	reply = binary.LittleEndian.AppendUint32(reply, 0)
	reply = append(reply, m[4:8]...) // in response to
	reply = binary.LittleEndian.AppendUint32(reply, opMsg)
	reply = binary.LittleEndian.AppendUint32(reply, 0) // flags
	reply = append(reply, 0)                           // a body section
	return append(reply, document...), nil
}

// needsTurn says whether the message must have the server for itself. Exempt are those that may
// wait inside the server and change nothing: the greetings (a client may ask that hello be answered
// only when something changes) and getMore (on a tailable cursor it waits for the very insert that
// it would keep out).
func (m message) needsTurn() bool {
	if m.opcode() == opQuery {
		return false
	}
	switch m.command() {
	case "hello", "isMaster", "ismaster", "getMore":
		return false
	}
	return true
}
