// Package mongostore keeps the data of any number of registries in a MongoDB
// database: the store for a fleet.
//
// # Commands
//
// Every change is one command on one document, acknowledged by a majority of the
// replica set with their journals; there is no transaction over several. What
// decides something is read from the primary with read concern majority, so that
// an answer never rests on what a new primary may roll back. The driver repeats
// a command once whose answer was lost, under the same number, and the server
// then answers what it did at first. Where even that fails, the answer is
// unknown and the caller asks again: every operation finds what an earlier try
// of itself left and goes on from there.
//
// Operations of Do on the same job or record run in order, others at the same
// time, as many as there are connections.
//
// # Firing
//
// A fire concerns two documents, the record and its job. It inserts the record
// under the id that its cause gives it, unconfirmed: it says for which version
// and fire time its job is to be advanced. Then it advances the job where that
// version and that time stand, and notes in the same write, in the field fired,
// that this version was advanced past this time. That note is the truth about
// the record, for it is written once and stays:
//
//	passed      the job notes, for the record's version, its time or a later one
//	possible    the job stands at exactly that version and time
//	impossible  the job is deleted or has a later version, and notes nothing
//	early       anything else: the job has that version, but not yet that time
//
// Passed and impossible are final: only a job that has the version is advanced
// under it, and versions only grow. So everybody who meets an unconfirmed record
// judges alike. If it is passed, the record counts. If it is possible, they claim
// the record, advance the job and look again. If it is impossible, they delete
// it, as it is: nothing has ever relied on it. If it is early, they leave it
// alone. Any change of a record takes the mark off; of a record that nobody will
// change again (a skip), or before an edit or a deletion of the job, it is taken
// off for itself.
//
// What can come between the two writes of a fire, by A, and how it ends:
//
//	A dies after the insert             the next who meets the record, or Mend, advances the job for it
//	another fires the same time, B      B's insert meets A's record; B advances for it and is lost to it;
//	                                    A's own advance then finds the time passed: done
//	two advance for the record          one matches; the other finds the time passed
//	an edit begins                      it settles the record first; the job has moved, so the edit conflicts
//	the edit has read before the insert either A's advance comes first: the edit conflicts;
//	                                    or the edit: A finds the record impossible, deletes it, is lost to the edit.
//	                                    The job may still stand at the time: it is fired afresh, as edited
//	as before, and A dies               whoever meets the record deletes it; if it holds the slot, they meet it when
//	                                    they fire or run the job
//	A finds it impossible, B too        both delete what they read; one matches, and the fire that B wants for
//	                                    itself begins afresh
//	A's insert arrives after all that   it meets B's record, or is impossible and is deleted like the others
//	a deletion                          like an edit
//	A fired early, from a read of a     A withdraws its record, unless it is claimed: then the job has come to
//	primary that was deposed            that time, and somebody counts on the record
//
// A claim is what makes the last line safe: who advances the job for a record
// that is not their own claims it first, and an early record is only withdrawn
// unclaimed.
//
// # Other things of more than one document
//
// A deletion leaves a tombstone that owes: what waits is cancelled one by one,
// once at once and once more by Mend, a minute later, for a run that was started
// by hand at the same moment; that one also looks at its job again after it was
// inserted.
//
// The limit of jobs holds by inserting first, not yet as a job, and counting
// afterwards. The last of those that crowd in counts all others.
//
// An audit is written in the same command as what it is about, inside the
// document, and copied to the audit log from there: at once, else by the next
// change of the document, else by Mend.
//
// A user's manual runs of the last hour are one document, changed by
// compare-and-set. A run that was counted but not recorded, because its registry
// died, counts for a minute.
//
// A super admin who is about to go is marked first: of those who go at the same
// time none counts on a marked one, so that one stays, whoever dies. A user who
// is removed is a tombstone at once, and tokens that are deleted are named in
// their user's document at once; what is left of either is deleted after that.
//
// # Roll-ups
//
// Ends are counted after the fact, so that a run costs no write more. The write
// that ends a record, or corrects how an unknown one had ended, has the server
// note its logical time in the field settled. Such times only grow, whichever
// server is the primary, so that no clock of a registry matters, nor how long ago
// a run was complete when it was reported.
//
// A step of a roll-up reads what settled since the last one, and a little before,
// because writes that are under way at the same time become visible in any order.
// It does not add to what was counted: it counts whole slices of that logical
// time, some seconds long, anew, and sets what each job and quarter of an hour got
// from the slice, which may happen any number of times. A record settles but once,
// unless it is corrected: then it leaves the slice that it was in, notes which, and
// that one is counted anew as well. Slices are kept, and added up once a quarter of
// an hour is long over, so that a year is read without them.
//
// Steps have numbers. What one writes that was overtaken is refused where a later
// one has written, and only the latest keeps how far it came. So an overtaken one
// leaves nothing behind that a later one does not count again:
//
//	it writes before a later step does     that one, having read later, writes over it
//	it writes where a later one has        it is refused
//	it wrote what a later one had not read that one does not come so far: the next counts the slice anew
//	a record left while it read            the note of the record has its old slice counted anew
//
// Whoever finds a step at work waits for it to be over; some seconds at most, for
// it may have died.
//
// The states of jobs are kept by the same steps, where they are not of later
// ends. A correction has its job's latest records looked at again.
//
// # Documents
//
// Parameters, schemas and results are kept as documents, with the full-width
// forms of $ and . in their keys. Where the document alone would not give back
// the same JSON to the byte, it stands beside the document as text. An
// application's collections may be in the same database.
package mongostore
