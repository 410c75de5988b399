// Package dispatch turns due times into leased, run and recorded executions.
//
// # One loop
//
// A single goroutine owns all state: the jobs of the near future, the waiting
// records in memory, the leased ones, the executors' sessions and their credits.
// It does no I/O and reads no clock. Whoever drives it tells it the time,
// performs the batches of writes and the reads that it asks for, and folds the
// answers back. Dispatcher.Run drives it with goroutines and a timer; the
// simulation drives the very same code with a virtual clock.
//
// Everything that must happen later is in the store: jobs by their next fire
// time, live records by the time they want to be looked at. Memory is only a
// faster copy. A restart therefore needs no path of its own.
//
// # Many registries
//
// Any number of registries may share one store. Each beats into it, looks at the
// beats of the others, and looks after the jobs of its share (membership.go).
// A share is a hint: whoever else acts on a record meets the same compare-and-set.
// So nothing special happens when a registry dies: after the TTL the others deal
// its buckets out anew, and what is due, waits or is leased in them is found by the
// polls that find everything.
//
// An executor has one session and a stream to each registry, and offers its free
// slots to all of them; an assignment that meets no free slot is handed back. What
// it holds belongs to one of its open streams, over which it is reported. With each
// heartbeat it says which streams are open and what it holds at all: a lease over a
// stream that is closed, and that it does not hold, is lost for good, and whoever
// looks after the job takes it back (settleHeld). A manual run is leased by the
// registry that accepts it, whichever that is; a cancellation goes out over any
// stream of the holder.
//
// # Whose turn it is
//
// Waiting records are grouped into queues: organisation, priority, template,
// selector. Within a queue order is by time. A free slot goes to the organisation
// whose runs take the fewest, there to the highest priority, there to what waits
// longest and can be run by the executor. So neither a backlog nor a queue that no
// executor can serve holds up another.
//
// A template that limits its own concurrency has that many seats. A lease takes
// one, in the same compare-and-set, and no two records have the same one: the limit
// holds across registries without anybody counting.
//
// # The way of a run
//
//	due        fireDue decides: a run, or a skip with its reason
//	recorded   one atomic Fire inserts the record and advances the job; when an
//	           executor has credit, the record is born leased
//	assigned   sent only after the lease is durable, under a new fencing token
//	started    durable before the work begins, where the template is not
//	           idempotent (the executor waits for Go); else written when it
//	           arrives, merged with a result that comes first
//	ended      acknowledged only after the result is durable
//
// Every change of a record is one compare-and-set on its (status, token). The
// loop never has two changes of one record under way. What the store cannot
// answer for is submitted again as it was.
//
// # What fails, and what happens then
//
// The registry dies. The next one, or another, reads what is leased and the
// sessions, and waits for the executors to come back: their Hello names what they
// hold. What was leased over a stream that is closed, and is not held, never was
// received, or was lost: it is settled.
//
// An insertion that leased a manual run is reported as failed, and happened. The
// record is looked up; one that appears later still is found by two settlings in a
// row as leased over an open stream and known to nobody.
//
// A stream breaks. Its leases stay. The executor comes back with a new stream
// and says which of its streams are closed; from then on it discards what still
// arrives over them, so what it does not hold it never will.
//
// An executor dies, or is cut off. Its beat counter stands still for the session
// TTL: then its session is ended by a compare-and-set on the counter seen,
// and only after that its leases are taken back. Silence counts only between
// looks at the store that are at most a second apart: after a pause of this
// process or of the store every timer begins anew, else a stopped registry would
// wake and kill every session at once. A heartbeat is answered after its beat is
// durable.
//
// An executor forgets. A heartbeat names the highest assignment number received
// and everything held; what was sent up to that number and is not held is
// settled as lost.
//
// Taken back, or not held: what never started is leased again. What was running
// becomes pending only if its template is idempotent, else unknown: alerted and
// never attempted again, until a late result under the same token, or a person,
// resolves it. After three lost executors a run fails as executor_lost.
//
// A cancellation of a leased record only sets a flag; every change back to
// pending or retrying requires the flag unset, so a cancelled run cannot come
// back. The slot of a job that forbids overlap is free when its process is known
// to be gone; for an unknown end, or a cancelled run whose executor died, that is
// its time-out and a grace after its start.
package dispatch
