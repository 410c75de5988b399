package proxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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
	if m.opcode() != opMsg || len(m) < headerBytes+4 {
		return ""
	}
	const kindBody, kindSequence = 0, 1
	for rest := m[headerBytes+4:]; len(rest) >= 5; {
		kind, size := rest[0], int64(int32(binary.LittleEndian.Uint32(rest[1:])))
		switch kind {
		case kindBody:
			// int32 size, the type of the first element, its name ending in 0
			if len(rest) < 6 {
				return ""
			}
			name, _, found := bytes.Cut(rest[6:], []byte{0})
			if !found {
				return ""
			}
			return string(name)
		case kindSequence:
			if size < 4 || 1+size > int64(len(rest)) {
				return ""
			}
			rest = rest[1+size:]
		default:
			return ""
		}
	}
	return ""
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
