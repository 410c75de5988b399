package builtin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// restore reads an archive of backup into a database. It first brings the whole
// archive to the executor and verifies it; only then does it touch data.
type restore struct{}

const (
	sourceParam = "source"
	latest      = "latest"

	// What happens to documents that are there already.
	modeKeep      = "keep"
	modeOverwrite = "overwrite"
	modeReplace   = "replace"

	batchBytes         = 8 << 20
	defaultMaxRestored = 1_000_000
	restoringPrefix    = "almanac_restoring_"
	codeDuplicateKey   = 11000
	codeNotImplemented = 238
)

func (restore) Descriptor() template.Descriptor {
	return template.Descriptor{
		Type:    "restore",
		Version: 1,
		Name:    "Restore",
		Description: "Read collections from an archive of the backup template into a database, under their own or other names, with their indexes. " +
			"An archive that is damaged is refused before any data are touched",
		Category:          "maintenance",
		Icon:              "♻️",
		EstimatedDuration: "1-60 minutes",
		ResourceUsage:     "high",
		RiskLevel:         "high",
		Idempotent:        true, // in each mode, doing it again leads to the same
		Destructive:       true,
		Connections:       map[string]string{connectionParam: template.KindMongoDB, sourceParam: template.KindBucket},
		Implied:           []string{connectionParam, sourceParam},
	}
}

func (restore) Schema() map[string]any {
	name := map[string]any{"type": "string", "minLength": 1, "maxLength": maxCollectionName}
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"x-form":               []any{sourceParam, "object", "prefix", collectionsParam, "mode", "suffix", template.DryRunParam},
		"properties": map[string]any{
			"object": map[string]any{
				"type": "string",
				"description": `Name of the archive in the bucket, as backup's result tells it; or "latest" for the one under prefix whose scheduled time is the latest ` +
					"that is not after this run's own",
				"minLength": 1,
				"maxLength": 1000,
				"default":   latest,
				"examples":  []any{"backups/job_7f3a-20251019T020000Z.tar.gz"},
			},
			"prefix": map[string]any{
				"type":        "string",
				"description": `Where "latest" looks. All archives that begin so must be of one job: add the job's id, if it is not the only one there`,
				"minLength":   1,
				"maxLength":   1000,
				"default":     defaultBackups + "/",
				"examples":    []any{"backups/job_7f3a"},
			},
			collectionsParam: collectionsSchema("Collections of the archive to restore, by the names that they have there; all of them when left out"),
			"rename": map[string]any{
				"type": "object",
				"description": "New names of collections, by the names in the archive; the others keep theirs. " +
					"The executor's configuration must allow the new names as well",
				"minProperties":        1,
				"maxProperties":        maxBackedUp,
				"additionalProperties": name,
				"examples":             []any{map[string]any{"users": "users_restored"}},
			},
			"suffix": map[string]any{
				"type":        "string",
				"description": "What to append to the name of every collection; excludes rename",
				"minLength":   1,
				"maxLength":   50,
				"pattern":     "^[A-Za-z0-9_-]+$",
				"examples":    []any{"_restored"},
			},
			"mode": map[string]any{
				"type": "string",
				"description": "What happens where there are documents already. keep: they stay as they are, and only documents whose _id is missing are inserted. " +
					"overwrite: those whose _id is in the archive become what the archive has, the others stay. " +
					"replace: the collection is afterwards what the archive has; it is built beside the old one, which goes only when the new one is complete",
				"enum":    []any{modeKeep, modeOverwrite, modeReplace},
				"default": modeKeep,
			},
			"max_documents": map[string]any{
				"type":        "integer",
				"description": "The run fails, before touching anything, when the collections to restore have more documents than this",
				"minimum":     1,
				"maximum":     1_000_000_000,
				"default":     defaultMaxRestored,
			},
			template.DryRunParam: map[string]any{
				"type":        "boolean",
				"description": "Verify the archive and say what would be done, without touching data",
				"default":     true,
			},
			connectionParam: connectionSchema(),
			sourceParam: map[string]any{
				"type":        "string",
				"description": "Name of the bucket that has the archive; needed only when the executor has several",
				"minLength":   1,
			},
		},
	}
}

func (restore) ResultSchema() map[string]any {
	counts := map[string]any{
		"records_inserted": map[string]any{"type": "integer", "description": "Documents that were missing and are there now; 0 in a dry run"},
		"records_replaced": map[string]any{"type": "integer", "description": "Documents that were there and are now what the archive has; 0 in a dry run"},
		"records_kept":     map[string]any{"type": "integer", "description": "Documents that were there and stayed as they were; 0 in a dry run"},
	}
	properties := map[string]any{
		"message":           map[string]any{"type": "string", "description": "What was done, or would be in a real run"},
		"object":            map[string]any{"type": "string", "description": "Name of the archive"},
		"sha256":            map[string]any{"type": "string", "description": "SHA-256 of the archive, in hexadecimal"},
		"records_processed": map[string]any{"type": "integer", "description": "Documents of the archive that were dealt with; in a dry run, all that would be"},
		"collections": map[string]any{"type": "array", "description": "What was done with each collection, or would be", "items": map[string]any{
			"type": "object",
			"properties": map[string]any{
				"from":      map[string]any{"type": "string", "description": "Its name in the archive"},
				"to":        map[string]any{"type": "string", "description": "Its name in the database"},
				"documents": map[string]any{"type": "integer", "description": "Its documents in the archive"},
				"present":   map[string]any{"type": "integer", "description": "About how many documents the database's collection had before"},
				"indexes":   map[string]any{"type": "integer", "description": "Its indexes besides that of _id"},
			},
		}},
	}
	maps.Copy(properties, counts)
	return map[string]any{"type": "object", "additionalProperties": false, "required": []any{"message"}, "properties": properties}
}

func (restore) Examples() []template.Example {
	return []template.Example{
		{Title: "Verify the latest archive and see what restoring it would do", Params: map[string]any{}},
		{Title: "Restore users beside the ones there are, to look at them", Params: map[string]any{
			"object": "backups/job_7f3a-20251019T020000Z.tar.gz", "collections": []any{"users"}, "rename": map[string]any{"users": "users_restored"}, "dryRun": false,
		}},
		{Title: "Bring back deleted tickets, and leave those that are still there as they are", Params: map[string]any{
			"prefix": "backups/job_7f3a", "collections": []any{"tickets"}, "mode": modeKeep, "dryRun": false,
		}},
	}
}

func (restore) SettingsSchema() map[string]any {
	return spoolSettings("max_archive_mb", "How large an archive may be, as it lies in the bucket")
}

func (restore) ValidateSettings(map[string]any) error { return nil }

func (restore) ValidateParams(params map[string]any) error {
	if object, ok := params["object"].(string); ok && object != latest {
		if problem := checkObjectName(object); problem != "" {
			return template.BadParam("object", "%s", problem)
		}
	}
	if prefix, ok := params["prefix"].(string); ok {
		if problem := checkObjectName(prefix); problem != "" {
			return template.BadParam("prefix", "%s", problem)
		}
	}
	names := texts(params[collectionsParam])
	for _, name := range names {
		if problem := badCollection(name); problem != "" {
			return template.BadParam(collectionsParam, "%q %s", name, problem)
		}
	}
	renamed, _ := params["rename"].(map[string]any)
	if _, both := params["suffix"]; both && len(renamed) > 0 {
		return template.BadParam("suffix", "and rename exclude each other: drop one of them")
	}
	for _, from := range slices.Sorted(maps.Keys(renamed)) {
		to, _ := renamed[from].(string)
		if problem := badCollection(to); problem != "" {
			return template.BadParam("rename."+from, "%q %s", to, problem)
		}
		if len(names) > 0 && !slices.Contains(names, from) {
			return template.BadParam("rename."+from, "is not among the collections to restore: add it there, or remove it here")
		}
	}
	return nil
}

// restoration is what is to be done with one collection.
type restoration struct {
	from, to  string
	documents int64
	data      string // path in the archive
	metadata  collectionMetadata
	exists    bool  // to, in the database
	present   int64 // documents of to, about
}

// tally counts what became of documents.
type tally struct{ inserted, replaced, kept int64 }

func (t tally) total() int64 { return t.inserted + t.replaced + t.kept }

func (r restore) Execute(ctx context.Context, run *template.Run) (template.Result, error) {
	connection, err := run.Connection(connectionParam)
	if err != nil {
		return nil, err
	}
	source, err := run.Connection(sourceParam)
	if err != nil {
		return nil, err
	}
	archives, err := openBucket(ctx, source)
	if err != nil {
		return nil, err
	}
	defer archives.close()
	name, err := r.object(ctx, run, archives)
	if err != nil {
		return nil, err
	}
	result := template.Result{"object": name, "records_inserted": int64(0), "records_replaced": int64(0), "records_kept": int64(0)}
	archive, err := r.fetch(ctx, run, archives, name, result)
	if err != nil {
		return nil, err
	}
	defer discard(archive)
	verified, err := r.verify(ctx, run, archive, name)
	if err != nil {
		return nil, err
	}
	plan, err := restorations(run.Params, run.Allowed[collectionParam], verified)
	if err != nil {
		return nil, err
	}

	db, err := connect(ctx, connection)
	if err != nil {
		return nil, err
	}
	defer db.close(ctx)
	if err := r.look(ctx, db, plan, run.Report); err != nil {
		return nil, err
	}
	var total int64
	collections := make([]any, len(plan))
	for i, c := range plan {
		total += c.documents
		collections[i] = map[string]any{
			"from": c.from, "to": c.to, "documents": c.documents, "present": c.present, "indexes": int64(len(secondary(c.metadata.Indexes))),
		}
	}
	result["collections"] = collections
	most, ok := whole(run.Params["max_documents"])
	if !ok {
		most = defaultMaxRestored
	}
	// Only an explicit false restores.
	if dry := run.Params[template.DryRunParam] != false; dry {
		return r.preview(run, plan, total, most, result), nil
	}
	if total > most {
		result["message"] = "Restored nothing"
		return result, template.Fail(template.CodeLimit, "the collections to restore have %d documents, more than max_documents (%d): nothing was touched; choose fewer collections or raise max_documents", total, most)
	}
	loader := &loader{db: db, mode: modeOf(run.Params), job: run.JobID, report: run.Report, total: total}
	err = loader.restore(ctx, archive, plan)
	result["records_processed"] = loader.done.total()
	result["records_inserted"], result["records_replaced"], result["records_kept"] = loader.done.inserted, loader.done.replaced, loader.done.kept
	result["message"] = fmt.Sprintf("Restored %d of %d documents from %s, then failed", loader.done.total(), total, name)
	if err == nil {
		result["message"] = fmt.Sprintf("Restored %d collections from %s: %d documents inserted, %d replaced, %d kept as they were",
			len(plan), name, loader.done.inserted, loader.done.replaced, loader.done.kept)
	}
	return result, err
}

func modeOf(params map[string]any) string {
	if mode, ok := params["mode"].(string); ok {
		return mode
	}
	return modeKeep
}

// object returns the name of the archive to restore.
func (restore) object(ctx context.Context, run *template.Run, archives *bucket) (string, error) {
	if name, ok := run.Params["object"].(string); ok && name != latest {
		return name, nil
	}
	prefix, ok := run.Params["prefix"].(string)
	if !ok {
		prefix = defaultBackups + "/"
	}
	names, err := listObjects(ctx, archives, prefix)
	if err != nil {
		return "", err
	}
	return latestBackup(names, prefix, run.ScheduledFor)
}

// latestBackup returns the last archive that is not later than at: a retry must
// not find another one.
func latestBackup(names []string, prefix string, at time.Time) (string, error) {
	var found string
	var foundAt time.Time
	series := map[string]bool{}
	for _, name := range names {
		before, of, ok := parseBackupName(name)
		if !ok {
			continue
		}
		series[before] = true
		if !of.After(at) && (found == "" || of.After(foundAt)) {
			found, foundAt = name, of
		}
	}
	switch {
	case len(series) > 1:
		return "", template.Fail(template.CodeValidation, "prefix: the archives that begin with %q are of several jobs: give one of %s",
			prefix, strings.Join(slices.Sorted(maps.Keys(series)), ", "))
	case found == "":
		return "", template.Fail(template.CodeValidation, "prefix: no archive begins with %q and was made until %s: correct the prefix, or give the archive's name as object",
			prefix, at.UTC().Format(time.RFC3339))
	}
	return found, nil
}

// fetch copies the archive into a temporary file, so that what is restored is
// what was verified.
func (restore) fetch(ctx context.Context, run *template.Run, archives *bucket, name string, result template.Result) (*os.File, error) {
	megabytes, _ := whole(run.Settings["max_archive_mb"])
	file, err := os.CreateTemp("", "restore-*"+backupEnding)
	if err != nil {
		return nil, temporaryFailure(err)
	}
	sum := sha256.New()
	run.Report.Log("INFO", "Reading "+name)
	err = readObject(ctx, archives, name, func(object io.Reader) error {
		n, err := io.Copy(temporaryWriter{file}, io.TeeReader(io.LimitReader(object, megabytes<<20+1), sum))
		if err == nil && n > megabytes<<20 {
			err = template.Fail(template.CodeLimit, "%s is larger than the %d MiB that this executor permits: raise max_archive_mb in the settings of the template, if there is room for temporary files", name, megabytes)
		}
		return err
	})
	if err != nil {
		discard(file)
		return nil, err
	}
	result["sha256"] = hex.EncodeToString(sum.Sum(nil))
	return file, nil
}

// temporaryWriter tells a full disk from a bucket that fails.
type temporaryWriter struct{ file *os.File }

func (w temporaryWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	if err != nil {
		err = temporaryFailure(err)
	}
	return n, err
}

func discard(file *os.File) {
	_ = file.Close()
	_ = os.Remove(file.Name()) // the folder goes with the run anyway
}

func (restore) verify(ctx context.Context, run *template.Run, archive *os.File, name string) (*verifiedBackup, error) {
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return nil, temporaryFailure(err)
	}
	verified, err := verifyBackup(ctx, archive, func(documents int64) {
		run.Report.Progress(documents, 0, "Verifying "+name)
	})
	var told *template.Error
	if errors.As(err, &told) && told.Code == codeDamaged {
		return nil, template.Fail(codeDamaged, "%s: %w; nothing was touched", name, err)
	}
	if err != nil {
		return nil, err
	}
	m := verified.manifest
	run.Report.Log("INFO", fmt.Sprintf("Verified %s: %d documents in %d collections of %s, backed up for %s",
		name, m.documents(), len(m.Collections), m.Database, m.ScheduledFor.Format(time.RFC3339)))
	return verified, nil
}

// restorations decides what goes where. Both names must be permitted: the one in
// the archive, for otherwise a backup would show what the database does not, and
// the new one.
func restorations(params map[string]any, permitted []string, archive *verifiedBackup) ([]restoration, error) {
	chosen := texts(params[collectionsParam])
	renamed, _ := params["rename"].(map[string]any)
	suffix, _ := params["suffix"].(string)
	for _, name := range append(slices.Clone(chosen), slices.Sorted(maps.Keys(renamed))...) {
		if _, ok := archive.metadata[name]; !ok {
			return nil, template.Fail(template.CodeValidation, "the archive has no collection %q: it has %s", name, strings.Join(slices.Sorted(maps.Keys(archive.metadata)), ", "))
		}
	}
	var plan []restoration
	origin := map[string]string{}
	for _, c := range archive.manifest.Collections {
		if len(chosen) > 0 && !slices.Contains(chosen, c.Name) {
			continue
		}
		to := c.Name + suffix
		if name, ok := renamed[c.Name].(string); ok {
			to = name
		}
		if problem := badCollection(to); problem != "" {
			return nil, template.Fail(template.CodeValidation, "the collection %q %s", to, problem)
		}
		if other, twice := origin[to]; twice {
			return nil, template.Fail(template.CodeValidation, "rename: %q and %q would both become %q", other, c.Name, to)
		}
		origin[to] = c.Name
		for _, name := range []string{c.Name, to} {
			if !slices.Contains(permitted, name) {
				return nil, notPermitted(collectionsParam, name)
			}
		}
		plan = append(plan, restoration{from: c.Name, to: to, documents: c.Documents, data: c.Data.Path, metadata: archive.metadata[c.Name]})
	}
	if len(plan) == 0 {
		return nil, template.Fail(template.CodeValidation, "the archive has no collections: there is nothing to restore")
	}
	return plan, nil
}

// look completes the plan with what the database has.
func (restore) look(ctx context.Context, db *database, plan []restoration, report template.Reporter) error {
	there, err := listCollections(ctx, db)
	if err != nil {
		return err
	}
	for i := range plan {
		c := &plan[i]
		info, ok := there[c.to]
		if !ok {
			continue
		}
		if info.Type != "" && info.Type != "collection" {
			return template.Fail(template.CodeValidation, "%q is a %s in the database %q: choose another name", c.to, info.Type, db.Name())
		}
		c.exists = true
		if c.present, err = db.Collection(c.to).EstimatedDocumentCount(ctx); err != nil {
			return db.failure(ctx, "count the documents of "+c.to, err)
		}
	}
	for _, c := range plan {
		for _, index := range secondary(c.metadata.Indexes) {
			if after, ok := field(index, "expireAfterSeconds"); ok {
				report.Log("WARN", fmt.Sprintf("The index %v of %s makes the server delete documents %v seconds after the time in them: old ones go soon after they are restored", nameOf(index), c.to, after))
			}
		}
	}
	return nil
}

// preview says what a run would do.
func (restore) preview(run *template.Run, plan []restoration, total, most int64, result template.Result) template.Result {
	for _, c := range plan {
		run.Report.Log("INFO", fmt.Sprintf("Would restore %d documents of %s into %s (%s), which has about %d", c.documents, c.from, c.to, modeOf(run.Params), c.present))
	}
	if total > most {
		run.Report.Log("WARN", fmt.Sprintf("A real run would fail: there are %d documents to restore and max_documents is %d", total, most))
	}
	result["records_processed"] = total
	result["message"] = fmt.Sprintf("Would restore %d documents of %d collections from %s (dry run)", total, len(plan), result["object"])
	return result
}

// loader writes the documents of an archive.
type loader struct {
	db     *database
	mode   string
	job    string
	report template.Reporter
	total  int64
	done   tally
}

// restore loads the planned collections in the order of the archive.
func (l *loader) restore(ctx context.Context, archive *os.File, plan []restoration) error {
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return temporaryFailure(err)
	}
	byPath := make(map[string]restoration, len(plan))
	for _, c := range plan {
		byPath[c.data] = c
	}
	return walkArchive(ctx, archive, func(path string, content io.Reader) error {
		c, ok := byPath[path]
		if !ok {
			return nil
		}
		return l.collection(ctx, c, newDocumentReader(content))
	})
}

// collection restores one.
func (l *loader) collection(ctx context.Context, c restoration, documents documentSource) error {
	if l.mode == modeReplace && c.exists {
		return l.replace(ctx, c, documents)
	}
	if !c.exists {
		if err := l.create(ctx, c.to, c.metadata.Options); err != nil {
			return err
		}
	}
	if err := l.load(ctx, c.to, c.to, documents); err != nil {
		return err
	}
	return l.index(ctx, c.to, c.metadata.Indexes)
}

// replace builds the collection beside the old one and then puts it in its
// place, so that a restore that fails half-way costs nothing.
func (l *loader) replace(ctx context.Context, c restoration, documents documentSource) (err error) {
	beside := restoringPrefix + l.job + "_" + c.to
	if err := l.db.Collection(beside).Drop(ctx); err != nil { // of an earlier attempt
		return l.db.failure(ctx, "drop "+beside, err)
	}
	defer func() {
		if err != nil {
			farewell, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewellTime)
			defer cancel()
			_ = l.db.Collection(beside).Drop(farewell) // the next attempt does it otherwise
		}
	}()
	if err := l.create(ctx, beside, c.metadata.Options); err != nil {
		return err
	}
	if err := l.load(ctx, beside, c.to, documents); err != nil {
		return err
	}
	if err := l.index(ctx, beside, c.metadata.Indexes); err != nil {
		return err
	}
	return l.rename(ctx, beside, c.to)
}

// rename puts a collection in the place of another.
func (l *loader) rename(ctx context.Context, from, to string) error {
	command := func(dropTarget bool) error {
		return l.db.Client().Database("admin").RunCommand(ctx, bson.D{
			{Key: "renameCollection", Value: l.db.Name() + "." + from},
			{Key: "to", Value: l.db.Name() + "." + to},
			{Key: "dropTarget", Value: dropTarget},
		}).Err()
	}
	err := command(true)
	var answer mongo.ServerError
	if errors.As(err, &answer) && answer.HasErrorCode(codeNotImplemented) {
		// Servers that speak MongoDB's protocol but cannot do both at once. For a
		// moment there is no collection of that name.
		if err = l.db.Collection(to).Drop(ctx); err == nil {
			err = command(false)
		}
	}
	if err != nil {
		return l.db.failure(ctx, "put "+from+" in the place of "+to, err)
	}
	return nil
}

func (l *loader) create(ctx context.Context, name string, options bson.D) error {
	command := bson.D{{Key: "create", Value: name}}
	for _, option := range options {
		// What only servers set.
		if !slices.Contains([]string{"uuid", "autoIndexId", "flags"}, option.Key) {
			command = append(command, option)
		}
	}
	if err := l.db.RunCommand(ctx, command).Err(); err != nil {
		return l.db.failure(ctx, "create "+name, err)
	}
	return nil
}

// load writes all documents into a collection, which people know as shown.
func (l *loader) load(ctx context.Context, name, shown string, documents documentSource) error {
	write := l.insert
	if l.mode == modeOverwrite {
		write = l.upsert
	}
	var batch []bson.Raw
	var size int
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		done, err := write(ctx, l.db.Collection(name), batch)
		l.done.inserted += done.inserted
		l.done.replaced += done.replaced
		l.done.kept += done.kept
		if err != nil {
			return err
		}
		l.report.Progress(l.done.total(), max(l.total, l.done.total()), "Restoring "+shown)
		batch, size = batch[:0], 0
		return nil
	}
	var count int64
	for {
		document, err := documents.next(ctx)
		if errors.Is(err, errEnd) {
			break
		}
		if err != nil {
			return err
		}
		count++
		batch = append(batch, slices.Clone(document))
		if size += len(document); len(batch) == batchSize || size >= batchBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	l.report.Log("INFO", fmt.Sprintf("%s: %d documents", shown, count))
	return nil
}

// insert inserts the documents whose _id is missing, and keeps the others.
func (l *loader) insert(ctx context.Context, collection *mongo.Collection, batch []bson.Raw) (tally, error) {
	_, err := collection.InsertMany(ctx, batch, options.InsertMany().SetOrdered(false))
	if err == nil {
		return tally{inserted: int64(len(batch))}, nil
	}
	var failed mongo.BulkWriteException
	if !errors.As(err, &failed) || failed.WriteConcernError != nil {
		return tally{}, l.db.failure(ctx, "insert a batch", err)
	}
	var ids bson.A
	for _, refused := range failed.WriteErrors {
		if refused.Code != codeDuplicateKey {
			return tally{}, l.db.failure(ctx, "insert a batch", err)
		}
		ids = append(ids, batch[refused.Index].Lookup("_id"))
	}
	// A key that is there twice may also be another than _id.
	there, err := collection.CountDocuments(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: ids}}}})
	if err != nil {
		return tally{}, l.db.failure(ctx, "count the documents that are there already", err)
	}
	done := tally{inserted: int64(len(batch) - len(ids)), kept: there}
	if there < int64(len(ids)) {
		return done, template.Fail(template.CodeDatabase, "%d documents have values in common with others although an index of %s is unique, such as: %s",
			int64(len(ids))-there, collection.Name(), l.db.connection.Redact(failed.WriteErrors[0].Message))
	}
	return done, nil
}

// upsert makes each document what it is in the archive.
func (l *loader) upsert(ctx context.Context, collection *mongo.Collection, batch []bson.Raw) (tally, error) {
	writes := make([]mongo.WriteModel, len(batch))
	for i, document := range batch {
		writes[i] = mongo.NewReplaceOneModel().SetFilter(byID(document)).SetReplacement(document).SetUpsert(true)
	}
	done, err := collection.BulkWrite(ctx, writes, options.BulkWrite().SetOrdered(false))
	var counted tally
	if done != nil {
		counted = tally{inserted: done.UpsertedCount, replaced: done.MatchedCount}
	}
	if err != nil {
		return counted, l.db.failure(ctx, "write a batch", err)
	}
	return counted, nil
}

// byID finds a document by its _id. One that is itself a document might be taken
// for an operator.
func byID(document bson.Raw) bson.D {
	id := document.Lookup("_id")
	if id.Type == bson.TypeEmbeddedDocument {
		return bson.D{{Key: "_id", Value: bson.D{{Key: "$eq", Value: id}}}}
	}
	return bson.D{{Key: "_id", Value: id}}
}

// index makes the indexes of a collection, unless they are there.
func (l *loader) index(ctx context.Context, name string, indexes []bson.D) error {
	wanted := secondary(indexes)
	if len(wanted) == 0 {
		return nil
	}
	var there []bson.D
	cursor, err := l.db.Collection(name).Indexes().List(ctx)
	if err == nil {
		err = cursor.All(ctx, &there)
	}
	if err != nil {
		return l.db.failure(ctx, "list the indexes of "+name, err)
	}
	there = secondary(there)
	// One of the same name that differs stays in: the server says what is wrong.
	wanted = slices.DeleteFunc(wanted, func(w bson.D) bool {
		return slices.ContainsFunc(there, func(i bson.D) bool { return reflect.DeepEqual(w, i) })
	})
	if len(wanted) == 0 {
		return nil
	}
	l.report.Log("INFO", fmt.Sprintf("Building %d indexes", len(wanted)))
	if err := l.db.RunCommand(ctx, bson.D{{Key: "createIndexes", Value: name}, {Key: "indexes", Value: wanted}}).Err(); err != nil {
		return l.db.failure(ctx, "build the indexes of "+name, err)
	}
	return nil
}

// secondary returns the indexes that a restored collection does not have by
// itself, without what only the server may say of them.
func secondary(indexes []bson.D) []bson.D {
	var found []bson.D
	for _, index := range indexes {
		if _, clustered := field(index, "clustered"); clustered || nameOf(index) == "_id_" {
			continue
		}
		found = append(found, slices.DeleteFunc(slices.Clone(index), func(e bson.E) bool {
			return slices.Contains([]string{"v", "ns", "background"}, e.Key)
		}))
	}
	return found
}

func nameOf(index bson.D) any {
	name, _ := field(index, "name")
	return name
}

func field(document bson.D, key string) (any, bool) {
	for _, e := range document {
		if e.Key == key {
			return e.Value, true
		}
	}
	return nil, false
}
