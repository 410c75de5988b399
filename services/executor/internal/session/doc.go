// Package session is the executor's side of the lease protocol: one session a
// process, one stream at a time to the registry, and everything that is leased.
//
// One goroutine, that of Run, owns the state. It hears of four things: frames
// from the registry, endings and log lines of attempts, the end of a stream, and
// time. After each it lets the state decide and, whenever the sender is free,
// hands it one frame with all that has gathered.
//
// An attempt passes through these phases:
//
//	blocked   an older token of the same execution is still dying here
//	waiting   Started is sent; the work begins at the registry's Go
//	running   the work is under way
//	ended     the result is kept until it is acknowledged
//	over      nothing is left to say; the slot is free once the work is gone
//
// What keeps the promises when something breaks:
//
//   - A stream breaks: the next one says hello with all that is held and names
//     the broken one as closed. Frames of a closed stream are never looked at
//     again. Logs and results that nobody has acknowledged are sent again, logs
//     first.
//   - An assignment was lost: it is not among the held, so the registry leases it
//     again.
//   - The machine slept: a Go that comes more than half a TTL after its Started
//     was sent first is not acted on, for a successor may have begun; the attempt
//     is handed back. Stale tokens are killed and say nothing more.
//   - The registry declared the session dead (FAILED_PRECONDITION): a new session
//     id, the same holdings.
//
// Credits: what the registry may still assign plus the slots in use never
// exceeds the slots.
package session
