package mongostore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/services/registry/internal/job"
	"github.com/almanac-scheduler/almanac/services/registry/internal/store"
)

const (
	// connections is the size of the pool, and how many operations are under way
	// at once.
	connections = 64
	// patience is how long one operation, with all its commands, may take.
	patience = 10 * time.Second
	// tries is how often an operation that meets others at work begins afresh.
	tries = 8
)

// Store is a [store.Store] in a MongoDB database.
type Store struct {
	client *mongo.Client
	log    *zap.Logger

	jobs, executions, templates, logs, audits, quotas *mongo.Collection
	sessions, replicas, users, tokens, rollUps, meta  *mongo.Collection

	rollUpAtOnce int // see the constant

	slots chan struct{} // one for each operation of Do that is under way

	mu     sync.Mutex
	closed bool
	active sync.WaitGroup // calls; none is added once closed
}

var _ store.Store = (*Store)(nil)

// Shared tells that several registries may use the store at the same time.
func (*Store) Shared() bool { return true }

func newStore(client *mongo.Client, database string, log *zap.Logger) *Store {
	db := client.Database(database)
	return &Store{
		client: client, log: log, slots: make(chan struct{}, connections),
		jobs: db.Collection(jobsName), executions: db.Collection(executionsName), templates: db.Collection(templatesName),
		logs: db.Collection(logsName), audits: db.Collection(auditsName), quotas: db.Collection(quotasName),
		sessions: db.Collection(sessionsName), replicas: db.Collection(replicasName), users: db.Collection(usersName),
		tokens: db.Collection(tokensName), rollUps: db.Collection(rollUpsName), rollUpAtOnce: rollUpAtOnce, meta: db.Collection(metaName),
	}
}

// Close waits for what is under way and ends the store. Calls after it fail.
func (s *Store) Close() error {
	s.mu.Lock()
	already := s.closed
	s.closed = true
	s.mu.Unlock()
	s.active.Wait()
	if already {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.client.Disconnect(ctx); err != nil {
		return fmt.Errorf("disconnect: %w", err)
	}
	return nil
}

var errClosed = errors.New("the store is closed")

// enter begins a call; the function that it returns ends it.
func (s *Store) enter(ctx context.Context) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	s.active.Add(1)
	return s.active.Done, nil
}

// call runs one method of the store: bounded in time, and with errors that
// callers understand.
func (s *Store) call(ctx context.Context, perform func(ctx context.Context) error) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return understood(err)
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return understood(perform(ctx))
}

// understood leaves the errors of package job as they are and turns all others
// into job.ErrUnavailable.
func understood(err error) error {
	if err == nil {
		return nil
	}
	for _, known := range []error{
		job.ErrNotFound, job.ErrNameTaken, job.ErrVersion, job.ErrConflict, job.ErrUnavailable, job.ErrEnded, job.ErrKeyReused, job.ErrUserExists,
		job.ErrLastAdmin,
	} {
		if errors.Is(err, known) {
			return err
		}
	}
	if _, ok := errors.AsType[*job.SlotHeldError](err); ok {
		return err
	}
	if _, ok := errors.AsType[*job.LimitError](err); ok {
		return err
	}
	return fmt.Errorf("%w: %w", job.ErrUnavailable, err)
}

// errRestless ends an operation that others got in the way of again and again.
var errRestless = errors.New("others changed the same thing all the time")

// Ready implements [store.Store]: it writes.
func (s *Store) Ready(ctx context.Context) error {
	return s.call(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, selectFor)
		defer cancel()
		_, err := s.meta.UpdateOne(ctx, bson.D{{Key: "_id", Value: metaID}}, bson.D{{Key: "$inc", Value: bson.D{{Key: "probes", Value: int64(1)}}}},
			options.UpdateOne().SetUpsert(true))
		return err
	})
}

// one reads one document, nil when there is none.
func one[T any](ctx context.Context, c *mongo.Collection, filter bson.D, o ...options.Lister[options.FindOneOptions]) (*T, error) {
	var v T
	err := c.FindOne(ctx, filter, o...).Decode(&v)
	if errors.Is(err, mongo.ErrNoDocuments) {
		return nil, nil //nolint:nilnil // none is an answer here, not an error
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.Name(), err)
	}
	return &v, nil
}

// many reads all documents that the filter and the options choose.
func many[T any](ctx context.Context, c *mongo.Collection, filter bson.D, o ...options.Lister[options.FindOptions]) ([]*T, error) {
	cursor, err := c.Find(ctx, filter, o...)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.Name(), err)
	}
	var all []*T
	if err := cursor.All(ctx, &all); err != nil {
		return nil, fmt.Errorf("read %s: %w", c.Name(), err)
	}
	return all, nil
}

// update changes the one document that the filter chooses and tells whether
// there was one.
func update(ctx context.Context, c *mongo.Collection, filter, change bson.D) (matched bool, err error) {
	r, err := c.UpdateOne(ctx, filter, change)
	if err != nil {
		return false, fmt.Errorf("change %s: %w", c.Name(), err)
	}
	return r.MatchedCount > 0, nil
}

// remove deletes the one document that the filter chooses and tells whether
// there was one.
func remove(ctx context.Context, c *mongo.Collection, filter bson.D) (bool, error) {
	r, err := c.DeleteOne(ctx, filter)
	if err != nil {
		return false, fmt.Errorf("delete from %s: %w", c.Name(), err)
	}
	return r.DeletedCount > 0, nil
}

// insert adds a document. fresh is false, and nothing happened, when a unique
// index forbids it.
func insert(ctx context.Context, c *mongo.Collection, document any) (fresh bool, err error) {
	if _, err := c.InsertOne(ctx, document); duplicate(err) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("insert into %s: %w", c.Name(), err)
	}
	return true, nil
}

// duplicate tells that a write met a unique index, and that this is certain:
// what it met is on a majority of the servers.
func duplicate(err error) bool {
	if !mongo.IsDuplicateKeyError(err) {
		// The stand-in for tests says it in SQLite's words when an update is at fault.
		return err != nil && strings.Contains(err.Error(), "UNIQUE constraint failed")
	}
	w, ok := errors.AsType[mongo.WriteException](err)
	return !ok || w.WriteConcernError == nil
}

func byID(id string) bson.D { return bson.D{{Key: "_id", Value: id}} }

// absent and present are conditions on a field.
func absent(field string) bson.E {
	return bson.E{Key: field, Value: bson.D{{Key: "$exists", Value: false}}}
}

func set(fields ...bson.E) bson.D { return bson.D{{Key: "$set", Value: bson.D(fields)}} }

// replacement is the update that leaves exactly the document's fields: it sets
// those that are there and removes the optional ones that are not.
func replacement(document any, optional []string) (sets, unsets bson.D, err error) {
	raw, err := bson.Marshal(document)
	if err != nil {
		return nil, nil, fmt.Errorf("encode %T: %w", document, err)
	}
	elements, err := bson.Raw(raw).Elements()
	if err != nil {
		return nil, nil, fmt.Errorf("encode %T: %w", document, err)
	}
	there := map[string]bool{}
	for _, e := range elements {
		there[e.Key()] = true
		sets = append(sets, bson.E{Key: e.Key(), Value: e.Value()})
	}
	for _, name := range optional {
		if !there[name] {
			unsets = append(unsets, bson.E{Key: name, Value: ""})
		}
	}
	return sets, unsets, nil
}

// changes puts an update together.
func changes(sets, unsets bson.D) bson.D {
	var u bson.D
	if len(sets) > 0 {
		u = append(u, bson.E{Key: "$set", Value: sets})
	}
	if len(unsets) > 0 {
		u = append(u, bson.E{Key: "$unset", Value: unsets})
	}
	return u
}
