// Package session is the executor's side of the lease protocol: one session a
// process, one stream to each registry, and everything that is leased.
//
// One goroutine, that of Run, owns the state. It hears of six things: frames and
// endings of streams, streams that were opened, addresses that were looked up,
// endings and log lines of attempts, and time. After each it lets the state
// decide and, for every stream whose sender is free, hands it one frame with all
// that has gathered.
//
// An attempt passes through these phases:
//
//	blocked   an older token of the same execution is still dying here
//	waiting   Started is sent; the work begins at a registry's Go
//	running   the work is under way
//	ended     the result is kept until it is acknowledged
//	over      nothing is left to say; the slot is free once the work is gone
//
// An attempt's home is the stream over which it is reported: the one that it was
// assigned over and, when that closes, another open one, or none until one opens.
// What a registry says of an attempt counts over any stream.
//
// What keeps the promises when something breaks:
//
//   - A stream breaks: frames of a closed stream are never looked at again, and
//     from then on everything that is said of all streams says that it is closed.
//     What was at home there moves at once; its start, its logs and its result,
//     as far as nobody has acknowledged them, are said again, logs first.
//   - An assignment was lost: its stream is closed and it is not among the held,
//     so that any registry can lease it again.
//   - The registry that writes the session's beats does not answer for half a
//     TTL, or its stream breaks: another is asked at once.
//   - The machine slept: a Go that comes more than half a TTL after its Started
//     was sent first is not acted on, for a successor may have begun; the attempt
//     is handed back. Stale tokens are killed and say nothing more.
//   - A registry declared the session dead (FAILED_PRECONDITION): all streams are
//     closed, and the same holdings are said again everywhere under a new session
//     id.
//   - A registry's name leads elsewhere: new addresses are dialled, those that
//     have gone are used as long as their streams last.
//
// Credits: every registry is offered all free slots. What one may still assign is
// the credits sent to it less the assignments received from it; the difference to
// the free slots goes with the next frame, and is negative when another registry
// was quicker. An assignment that meets no free slot is handed back, so the slots
// in use never exceed the slots.
package session
