package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.uber.org/zap"

	"github.com/almanac-scheduler/almanac/deploy/standin/internal/sample"
)

const (
	// noteCollection has one document that tells how the sample data were made. It lies in the same
	// database, so that dropping the database drops it too; documents deleted later stay deleted.
	noteCollection = "sample_data"
	noteID         = "note"
	insertBatch    = 1000
	sampleSeed     = 20260101
)

// note is written before the first document with complete false, and after the last with true: what
// a killed process began is finished by the next with the same numbers, and so the same documents.
type note struct {
	ID       string    `bson:"_id"`
	Seed     int64     `bson:"seed"`
	At       time.Time `bson:"at"`
	Complete bool      `bson:"complete"`
}

// seed fills the database with sample data that lead up to at, unless it has them already.
func seed(ctx context.Context, database *mongo.Database, at time.Time, logger *zap.Logger) error {
	notes := database.Collection(noteCollection)
	var n note
	err := notes.FindOne(ctx, bson.D{{Key: "_id", Value: noteID}}).Decode(&n)
	switch {
	case errors.Is(err, mongo.ErrNoDocuments):
		n = note{ID: noteID, Seed: sampleSeed, At: at.UTC().Truncate(time.Millisecond)}
		if _, err := notes.InsertOne(ctx, n); err != nil {
			return fmt.Errorf("note the beginning: %w", err)
		}
	case err != nil:
		return fmt.Errorf("look for the sample data: %w", err)
	case n.Complete:
		logger.Info("sample data are there", zap.String("database", database.Name()), zap.Time("at", n.At))
		return nil
	}

	for _, collection := range sample.Generate(uint64(n.Seed), n.At) {
		for begin := 0; begin < len(collection.Documents); begin += insertBatch {
			batch := collection.Documents[begin:min(begin+insertBatch, len(collection.Documents))]
			_, err := database.Collection(collection.Name).InsertMany(ctx, batch, options.InsertMany().SetOrdered(false))
			if err != nil && !onlyDuplicates(err) {
				return fmt.Errorf("insert %s: %w", collection.Name, err)
			}
		}
		logger.Info("sample data inserted",
			zap.String("database", database.Name()), zap.String("collection", collection.Name), zap.Int("documents", len(collection.Documents)))
	}
	_, err = notes.UpdateByID(ctx, noteID, bson.D{{Key: "$set", Value: bson.D{{Key: "complete", Value: true}}}})
	if err != nil {
		return fmt.Errorf("note the end: %w", err)
	}
	return nil
}

// onlyDuplicates says whether every document that was refused was there already, from a start that was
// interrupted.
func onlyDuplicates(err error) bool {
	var refused mongo.BulkWriteException
	if !errors.As(err, &refused) || refused.WriteConcernError != nil {
		return false
	}
	for _, one := range refused.WriteErrors {
		if !mongo.IsDuplicateKeyError(one) {
			return false
		}
	}
	return len(refused.WriteErrors) > 0
}
