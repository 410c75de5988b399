package sqlitestore

import (
	"fmt"
	"strings"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// migrations bring a database from one user_version to the next; the number of
// the last one is the version that this program writes. A migration that was
// released is never edited.
//
// What changes with each run (job_state, executions) is kept apart from what
// changes by edits (jobs, job_versions), so that the hot pages are few and full.
var migrations = []string{`
-- A job's identity and what lists select by. Tombstones stay.
CREATE TABLE jobs (
	key         INTEGER PRIMARY KEY,
	id          TEXT NOT NULL UNIQUE,
	name        TEXT NOT NULL,
	template    TEXT NOT NULL,
	enabled     INTEGER NOT NULL,
	deleted     INTEGER NOT NULL DEFAULT 0,
	created_at  INTEGER NOT NULL,
	fingerprint TEXT NOT NULL
);
CREATE UNIQUE INDEX jobs_name ON jobs (name) WHERE deleted = 0;
CREATE INDEX jobs_newest ON jobs (created_at, key) WHERE deleted = 0;

-- Every version of a job, never changed: runs refer to the one they were frozen from.
CREATE TABLE job_versions (
	job        INTEGER NOT NULL,
	version    INTEGER NOT NULL,
	definition TEXT NOT NULL,
	UNIQUE (job, version)
);

-- What firing, starting and ending write: the next time, the holder of the slot,
-- when a run last started, and how many records there are by status.
CREATE TABLE job_state (
	job         INTEGER PRIMARY KEY,
	version     INTEGER NOT NULL,
	next_run_at INTEGER,
	slot        INTEGER,
	last_run_at INTEGER NOT NULL DEFAULT 0,
	live        INTEGER NOT NULL DEFAULT 0,
	success     INTEGER NOT NULL DEFAULT 0,
	failed      INTEGER NOT NULL DEFAULT 0,
	timed_out   INTEGER NOT NULL DEFAULT 0,
	cancelled   INTEGER NOT NULL DEFAULT 0,
	skipped     INTEGER NOT NULL DEFAULT 0,
	unknown     INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX job_state_due ON job_state (next_run_at) WHERE next_run_at IS NOT NULL;

-- cause is empty for a scheduled run, whose at is its fire time; otherwise it is
-- the part of the id after the job, and at the time of acceptance.
-- queue says who looks at the record: a template's type while it waits for a
-- lease, 0 while it is leased or running, 1 when it ended but owes something,
-- NULL when it is settled.
-- cancel is the reason that was given with a cancellation, maybe empty; NULL
-- when none was requested.
-- own_attempt says that the last attempt ended as the record itself did, and is
-- not written a second time.
CREATE TABLE executions (
	seq          INTEGER PRIMARY KEY,
	job          INTEGER NOT NULL,
	at           INTEGER NOT NULL,
	cause        TEXT NOT NULL,
	version      INTEGER NOT NULL,
	idempotent   INTEGER NOT NULL,
	frozen       TEXT,
	triggered_by TEXT,
	created_at   INTEGER NOT NULL,
	status       INTEGER NOT NULL,
	token        INTEGER NOT NULL,
	session      TEXT,
	stream       TEXT,
	number       INTEGER,
	host         TEXT,
	own_attempt  INTEGER,
	started_at   INTEGER,
	completed_at INTEGER,
	isolation    TEXT,
	result       TEXT,
	detail       TEXT,
	queue,
	wake_at      INTEGER,
	exclusive    INTEGER,
	cancel       TEXT
);
CREATE UNIQUE INDEX executions_history ON executions (job, at, cause);
CREATE UNIQUE INDEX executions_cause ON executions (job, cause) WHERE cause <> '';
CREATE INDEX executions_live ON executions (queue, wake_at) WHERE queue IS NOT NULL;
CREATE INDEX executions_other ON executions (job, status, at, cause) WHERE status > 3;

CREATE TABLE logs (
	execution INTEGER NOT NULL,
	token     INTEGER NOT NULL,
	number    INTEGER NOT NULL,
	count     INTEGER NOT NULL,
	lines     TEXT NOT NULL,
	PRIMARY KEY (execution, token, number)
) WITHOUT ROWID;

CREATE TABLE audits (
	seq     INTEGER PRIMARY KEY,
	object  TEXT NOT NULL,
	number  INTEGER NOT NULL,
	at      INTEGER NOT NULL,
	user    TEXT NOT NULL,
	address TEXT NOT NULL,
	action  TEXT NOT NULL,
	before  TEXT,
	after   TEXT,
	UNIQUE (object, number)
);

-- The manual runs of the last hour, for the quota.
CREATE TABLE manual_runs (
	user      TEXT NOT NULL,
	at        INTEGER NOT NULL,
	execution INTEGER NOT NULL,
	PRIMARY KEY (user, at, execution)
) WITHOUT ROWID;

CREATE TABLE sessions (
	id       TEXT PRIMARY KEY,
	host     TEXT NOT NULL,
	count    INTEGER NOT NULL,
	ended_at INTEGER
) WITHOUT ROWID;

CREATE TABLE templates (
	type    TEXT PRIMARY KEY,
	version INTEGER NOT NULL,
	body    TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE users (
	name          TEXT PRIMARY KEY,
	role          TEXT NOT NULL,
	password_hash TEXT NOT NULL,
	created_at    INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE tokens (
	hash       TEXT PRIMARY KEY,
	user       TEXT NOT NULL,
	name       TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	expires_at INTEGER
) WITHOUT ROWID;
CREATE INDEX tokens_expiry ON tokens (expires_at) WHERE expires_at IS NOT NULL;
`, `
-- The queue of a record that waits is that of job.Queue, its template's type and more.
UPDATE executions SET queue = queue || '|' || coalesce(json_extract(frozen, '$.Organisation'),
	(SELECT json_extract(definition, '$.organisation') FROM job_versions v WHERE v.job = executions.job AND v.version = executions.version),
	'default') || '|0|'
	WHERE queue >= '';

-- Which of its template's seats the record takes, as type#number.
ALTER TABLE executions ADD COLUMN seat TEXT;
CREATE UNIQUE INDEX executions_seat ON executions (seat) WHERE seat IS NOT NULL;

-- about is what the executor said of itself when it came, as JSON.
ALTER TABLE sessions ADD COLUMN about TEXT NOT NULL DEFAULT '{}';
ALTER TABLE sessions ADD COLUMN opened_at INTEGER;
ALTER TABLE sessions ADD COLUMN running INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN stopping INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN last_beat_at INTEGER;
ALTER TABLE sessions ADD COLUMN draining INTEGER NOT NULL DEFAULT 0;

-- The registries that share the store.
CREATE TABLE replicas (
	id           TEXT PRIMARY KEY,
	name         TEXT NOT NULL,
	version      TEXT NOT NULL,
	opened_at    INTEGER,
	count        INTEGER NOT NULL,
	last_beat_at INTEGER
) WITHOUT ROWID;
`, `
-- What lists of jobs search and sort by, as the present version says: search is
-- the name, the template and the description in small letters, a line for each;
-- labels is a JSON object.
ALTER TABLE jobs ADD COLUMN search TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN labels TEXT NOT NULL DEFAULT '';
ALTER TABLE jobs ADD COLUMN updated_at INTEGER;
UPDATE jobs SET (search, labels, updated_at) = (
	SELECT to_lower(name || char(10) || template || char(10) || coalesce(json_extract(definition, '$.description'), '')), coalesce(json_extract(definition, '$.labels'), ''),
		CAST(round(unixepoch(json_extract(definition, '$.updated_at'), 'subsec') * 1000) AS INTEGER)
	FROM job_state s JOIN job_versions v ON v.job = s.job AND v.version = s.version WHERE s.job = jobs.key);
DROP INDEX jobs_newest;
CREATE INDEX jobs_newest ON jobs (created_at, id) WHERE deleted = 0;

-- How the job's latest run ended: its status, those that say nothing of it aside.
ALTER TABLE job_state ADD COLUMN last_end_at INTEGER;
ALTER TABLE job_state ADD COLUMN last_end INTEGER;

-- Not status IN (4, 5, 8): that takes as long as half of a change, with each.
CREATE INDEX executions_failures ON executions (completed_at) WHERE status = 4 OR status = 5 OR status = 8;

-- The ends that are still to be counted, in their order. Each is a line of four
-- words: the job, the status, when it ended, and how many milliseconds after its
-- start, - when it had none. Four more tell how a record had ended before.
CREATE TABLE ended (
	seq  INTEGER PRIMARY KEY,
	ends TEXT NOT NULL
);
INSERT INTO ended (ends)
	SELECT group_concat(job || ' ' || status || ' ' || completed_at || ' ' || coalesce(max(completed_at - started_at, 0), '-'), char(10)) FROM executions
	WHERE status >= 3 AND completed_at IS NOT NULL GROUP BY seq / 500 ORDER BY seq / 500;

-- What ended in the time from bucket on: of a job, or with job 0 of all but the
-- system's. timed are those that had started, total and longest their milliseconds.
-- block is the quarter of the day: by time alone, to read what a job did in a year
-- would take 35,000 steps into the table, and by job alone, what 10,000 jobs do now
-- would be written to as many pages.
CREATE TABLE rollups (
	block     INTEGER NOT NULL,
	job       INTEGER NOT NULL,
	bucket    INTEGER NOT NULL,
	success   INTEGER NOT NULL,
	failed    INTEGER NOT NULL,
	timed_out INTEGER NOT NULL,
	cancelled INTEGER NOT NULL,
	skipped   INTEGER NOT NULL,
	unknown   INTEGER NOT NULL,
	timed     INTEGER NOT NULL,
	total     INTEGER NOT NULL,
	longest   INTEGER NOT NULL,
	PRIMARY KEY (block, job, bucket)
) WITHOUT ROWID;

ALTER TABLE tokens ADD COLUMN kind TEXT NOT NULL DEFAULT 'login';
CREATE INDEX tokens_user ON tokens (user, created_at);

CREATE INDEX audits_user ON audits (user);
CREATE INDEX audits_action ON audits (action);
`}

// migrate applies what is missing, in one transaction.
func migrate(c *conn) (err error) {
	var have int64
	if _, err := c.one(`PRAGMA user_version`, nil, func(r row) { have = r.int(0) }); err != nil {
		return err
	}
	want := int64(len(migrations))
	if have > want {
		return fmt.Errorf("the database has schema version %d, but this program knows only %d; run the version of Almanac that wrote it, or a later one", have, want)
	}
	if have == want {
		return nil
	}
	if err := c.CreateFunction("to_lower", &sqlite.FunctionImpl{
		NArgs: 1, Deterministic: true,
		Scalar: func(_ sqlite.Context, args []sqlite.Value) (sqlite.Value, error) {
			return sqlite.TextValue(strings.ToLower(args[0].Text())), nil
		},
	}); err != nil {
		return err
	}
	end, err := sqlitex.ImmediateTransaction(c.Conn)
	if err != nil {
		return err
	}
	defer end(&err)
	for _, script := range migrations[have:] {
		if err := sqlitex.ExecuteScript(c.Conn, script, nil); err != nil {
			return fmt.Errorf("migrate from schema version %d: %w", have, err)
		}
	}
	return sqlitex.ExecuteTransient(c.Conn, fmt.Sprintf("PRAGMA user_version = %d", want), nil)
}
