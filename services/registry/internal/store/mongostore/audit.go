package mongostore

import (
	"context"
	"fmt"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

// pendingAudit travels in the document that it is about, in the very write that
// it tells of. From there it is copied to the audit log; the next mutation, or
// Mend, does what a crash left undone.
type pendingAudit struct {
	N       int           `bson:"n"`
	At      bson.DateTime `bson:"at"`
	User    string        `bson:"user"`
	Address string        `bson:"address"`
	Action  string        `bson:"action"`
	Object  string        `bson:"object"`
	Before  *string       `bson:"before"` // JSON
	After   *string       `bson:"after"`
}

// auditEntry is one of the audit log.
type auditEntry struct {
	ID     string       `bson:"_id"`
	Audit  pendingAudit `bson:",inline"`
	Source string       `bson:"source,omitempty"` // collection, document and number that it was copied from
}

func toAudit(a *store.Audit, n int) *pendingAudit {
	return &pendingAudit{
		N: n, At: date(a.At), User: a.User, Address: a.Address, Action: a.Action, Object: a.Object,
		Before: maybeText(string(a.Before)), After: maybeText(string(a.After)),
	}
}

func (e *auditEntry) decode() store.AuditEntry {
	p := &e.Audit
	a := store.AuditEntry{ID: e.ID, Audit: store.Audit{At: fromDate(&p.At), User: p.User, Address: p.Address, Action: p.Action, Object: p.Object}}
	if p.Before != nil {
		a.Before = []byte(*p.Before)
	}
	if p.After != nil {
		a.After = []byte(*p.After)
	}
	return a
}

// audited adds an audit to a mutation of a document that had so many: it takes
// effect only while there are no more, and none is pending.
func audited(filter, sets bson.D, a *store.Audit, had int) (bson.D, bson.D) {
	if a == nil {
		return filter, sets
	}
	count := bson.E{Key: "audits", Value: had}
	if had == 0 {
		count = absent("audits")
	}
	return append(filter, count, absent("audit")),
		append(sets, bson.E{Key: "audits", Value: had + 1}, bson.E{Key: "audit", Value: toAudit(a, had+1)})
}

// copyOut copies a pending audit to the log, at most once, and clears it. Where
// another document's audit of an object of the same name has its number, it gets
// the next that is free.
func (s *Store) copyOut(ctx context.Context, c *mongo.Collection, id string, p *pendingAudit) error {
	if p == nil {
		return nil
	}
	entry := auditEntry{Audit: *p, Source: fmt.Sprintf("%s/%s/%d", c.Name(), id, p.N)}
	for try := 0; ; try++ {
		if try == copyTries {
			return fmt.Errorf("copy the audit %s: %w", entry.Source, errRestless)
		}
		entry.ID = fmt.Sprintf("%s/%d", p.Object, entry.Audit.N)
		if fresh, err := insert(ctx, s.audits, entry); err != nil {
			return err
		} else if fresh {
			break
		}
		have, err := one[auditEntry](ctx, s.audits, bson.D{{Key: "source", Value: entry.Source}})
		if err != nil {
			return err
		}
		if have != nil {
			break
		}
		if entry.Audit.N, err = s.nextAudit(ctx, p.Object); err != nil {
			return err
		}
	}
	_, err := update(ctx, c, bson.D{{Key: "_id", Value: id}, {Key: "audit.n", Value: p.N}}, bson.D{{Key: "$unset", Value: bson.D{{Key: "audit", Value: ""}}}})
	return err
}

// copyTries is how often a number that seemed free turns out to be taken.
const copyTries = 100

// nextAudit is a number after all those of the object's audits in the log.
func (s *Store) nextAudit(ctx context.Context, object string) (int, error) {
	last, err := one[auditEntry](ctx, s.audits, bson.D{{Key: "object", Value: object}}, options.FindOne().SetSort(bson.D{{Key: "n", Value: -1}}))
	if err != nil || last == nil {
		return 1, err
	}
	return last.Audit.N + 1, nil
}

// withAudits are the collections whose documents audits travel in.
func (s *Store) withAudits() []*mongo.Collection {
	return []*mongo.Collection{s.jobs, s.executions, s.sessions, s.users, s.tokens}
}

// copyOutNew does the same for the audit of a mutation that happened just now.
// An error is only logged: the audit is safe where it is, and Mend copies it.
func (s *Store) copyOutNew(ctx context.Context, c *mongo.Collection, id string, a *store.Audit, had int) {
	if a == nil {
		return
	}
	if err := s.copyOut(ctx, c, id, toAudit(a, had+1)); err != nil {
		s.log.Warn("an audit entry is not in the log yet", zap.String("id", id), zap.Error(err))
	}
}

// copyOutAll copies what processes that died left pending.
func (s *Store) copyOutAll(ctx context.Context) error {
	for _, c := range s.withAudits() {
		found, err := many[struct {
			ID    string        `bson:"_id"`
			Audit *pendingAudit `bson:"audit"`
		}](ctx, c, bson.D{{Key: "audit.n", Value: bson.D{{Key: "$gt", Value: 0}}}},
			options.Find().SetLimit(mendAtOnce).SetProjection(bson.D{{Key: "audit", Value: 1}}))
		if err != nil {
			return err
		}
		for _, d := range found {
			if err := s.copyOut(ctx, c, d.ID, d.Audit); err != nil {
				return err
			}
		}
	}
	return nil
}
