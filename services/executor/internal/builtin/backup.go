package builtin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// backup writes collections into an archive in a bucket, reads it back, and then
// removes the job's older archives that need not be kept.
type backup struct{}

const (
	collectionParam   = "collection" // what allow lists, also for templates without such a parameter
	collectionsParam  = "collections"
	backupEnding      = ".tar.gz"
	backupTime        = "20060102T150405.000Z"
	backupTimeWhole   = "20060102T150405Z"
	defaultBackups    = "backups"
	defaultSpoolMB    = 10 << 10
	maxSpoolMB        = 10 << 20
	maxBackedUp       = 1_000 // collections in one archive
	maxCollectionName = 200   // leaves room for what a restore puts before it
)

func (backup) Descriptor() template.Descriptor {
	return template.Descriptor{
		Type:    "backup",
		Version: 1,
		Name:    "Backup",
		Description: "Write database collections into a compressed archive in mongodump's own layout, in a bucket; read it back to verify it; " +
			"and remove the job's older archives that need not be kept. What changes while it runs may be in the archive or not",
		Category:          "maintenance",
		Icon:              "💾",
		EstimatedDuration: "1-60 minutes",
		ResourceUsage:     "high",
		RiskLevel:         "low",
		Idempotent:        true, // the name of the archive follows from the scheduled time
		Connections:       map[string]string{connectionParam: template.KindMongoDB, destinationParam: template.KindBucket},
		Implied:           []string{connectionParam, destinationParam},
	}
}

func (backup) Schema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"x-form":               []any{collectionsParam, "keep_last", "keep_days", template.DryRunParam},
		"properties": map[string]any{
			collectionsParam: collectionsSchema("Collections to back up; all that the executor permits when left out"),
			"folder": map[string]any{
				"type":        "string",
				"description": "Folder in the bucket; the archive is named <folder>/<job id>-<scheduled time>.tar.gz, so that a retry replaces it",
				"minLength":   1,
				"maxLength":   200,
				"default":     defaultBackups,
				"examples":    []any{"backups/shop"},
			},
			"keep_last": map[string]any{
				"type": "integer",
				"description": "How many archives of this job to keep, the new one included. An older one is removed once the new one is verified; " +
					"with keep_days as well, only when neither keeps it; when both are left out, none",
				"minimum":  1,
				"maximum":  10_000,
				"examples": []any{14},
			},
			"keep_days": map[string]any{
				"type":        "integer",
				"description": "For how many days to keep this job's archives, counted back from the scheduled time; see keep_last",
				"minimum":     1,
				"maximum":     36_500,
				"examples":    []any{30},
			},
			template.DryRunParam: map[string]any{
				"type":        "boolean",
				"description": "Only say what would be written and which archives would be removed",
				"default":     false,
			},
			connectionParam: connectionSchema(),
			destinationParam: map[string]any{
				"type":        "string",
				"description": "Name of the bucket for the archive; needed only when the executor has several",
				"minLength":   1,
			},
		},
	}
}

func collectionsSchema(description string) map[string]any {
	return map[string]any{
		"type":        "array",
		"description": description + ". Each must be allowed by the executor's configuration (allow.<template>.collection)",
		"minItems":    1,
		"maxItems":    maxBackedUp,
		"uniqueItems": true,
		"items":       map[string]any{"type": "string", "minLength": 1, "maxLength": maxCollectionName},
		"examples":    []any{[]any{"users", "tickets"}},
	}
}

func (backup) ResultSchema() map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"required":             []any{"message"},
		"properties": map[string]any{
			"message":           map[string]any{"type": "string", "description": "What was done, or would be in a real run"},
			"object":            map[string]any{"type": "string", "description": "Name of the archive in the bucket"},
			"bytes":             map[string]any{"type": "integer", "description": "Size of the archive"},
			"sha256":            map[string]any{"type": "string", "description": "SHA-256 of the archive, in hexadecimal"},
			"verified":          map[string]any{"type": "boolean", "description": "Whether the archive was read back and found to be complete"},
			"records_processed": map[string]any{"type": "integer", "description": "Documents in the archive; in a dry run, about how many there would be"},
			"collections": map[string]any{"type": "array", "description": "What was written of each collection", "items": map[string]any{
				"type": "object",
				"properties": map[string]any{
					"name":      map[string]any{"type": "string", "description": "Its name"},
					"documents": map[string]any{"type": "integer", "description": "Its documents"},
					"bytes":     map[string]any{"type": "integer", "description": "Their size, uncompressed"},
				},
			}},
			"skipped": map[string]any{
				"type": "array", "description": "Permitted collections that are not there or are not plain collections, when none were named",
				"items": map[string]any{"type": "string"},
			},
			"removed": map[string]any{
				"type": "array", "description": "Older archives that were removed, or would be in a real run",
				"items": map[string]any{"type": "string"},
			},
		},
	}
}

func (backup) Examples() []template.Example {
	return []template.Example{
		{Title: "Back up two collections, and keep the last 14 archives and all of the last 30 days", Params: map[string]any{
			collectionsParam: []any{"users", "tickets"}, "folder": "backups/shop", "keep_last": 14, "keep_days": 30,
		}},
		{Title: "Back up all that is permitted, and keep every archive", Params: map[string]any{}},
		{Title: "See what would be removed", Params: map[string]any{"keep_last": 3, template.DryRunParam: true}},
	}
}

func (backup) SettingsSchema() map[string]any {
	return spoolSettings("max_collection_mb", "How large one collection may be, uncompressed")
}

// spoolSettings is the schema of settings that bound what is spooled.
func spoolSettings(name, what string) map[string]any {
	return map[string]any{
		"type":                 "object",
		"additionalProperties": false,
		"properties": map[string]any{
			name: map[string]any{
				"type":        "integer",
				"description": what + ", in MiB: so much temporary storage is needed on the executor",
				"minimum":     1,
				"maximum":     maxSpoolMB,
				"default":     defaultSpoolMB,
			},
		},
	}
}

func (backup) ValidateSettings(map[string]any) error { return nil }

func (backup) ValidateParams(params map[string]any) error {
	for _, name := range texts(params[collectionsParam]) {
		if problem := badCollection(name); problem != "" {
			return template.BadParam(collectionsParam, "%q %s", name, problem)
		}
	}
	if folder, ok := params["folder"].(string); ok {
		if problem := checkObjectName(folder); problem != "" {
			return template.BadParam("folder", "%s", problem)
		}
	}
	return nil
}

// badCollection says why the name is not one of a collection that is backed up
// or restored, or "".
func badCollection(name string) string {
	switch {
	case name == "" || len(name) > maxCollectionName:
		return fmt.Sprintf("must have 1 to %d bytes", maxCollectionName)
	case strings.HasPrefix(name, "system."):
		return "belongs to the database server"
	case strings.ContainsAny(name, "$\x00"):
		return "must contain neither $ nor a zero byte"
	case strings.HasPrefix(name, "."), strings.HasSuffix(name, "."):
		return "must neither begin nor end with a dot"
	}
	return ""
}

// texts returns the strings of a list of parameters.
func texts(value any) []string {
	items, _ := value.([]any)
	found := make([]string, 0, len(items))
	for _, item := range items {
		if text, ok := item.(string); ok {
			found = append(found, text)
		}
	}
	return found
}

// sourceCollection is a collection that is to be backed up.
type sourceCollection struct {
	metadata  collectionMetadata
	estimated int64
}

func (b backup) Execute(ctx context.Context, run *template.Run) (template.Result, error) {
	connection, err := run.Connection(connectionParam)
	if err != nil {
		return nil, err
	}
	destination, err := run.Connection(destinationParam)
	if err != nil {
		return nil, err
	}
	names, named, err := chosenCollections(run)
	if err != nil {
		return nil, err
	}
	archives, err := openBucket(ctx, destination)
	if err != nil {
		return nil, err
	}
	defer archives.close()
	name := backupName(run)
	if run.Previous["object"] == name && run.Previous["verified"] == true {
		run.Report.Log("INFO", name+" was written and verified by an earlier attempt")
		return b.retain(ctx, run, archives, maps.Clone(run.Previous))
	}
	db, err := connect(ctx, connection)
	if err != nil {
		return nil, err
	}
	defer db.close(ctx)
	sources, skipped, err := b.sources(ctx, db, names, named, run.Report)
	if err != nil {
		return nil, err
	}
	result := template.Result{"object": name, "verified": false, "skipped": skipped}
	if template.EffectiveDryRun(run.Params) {
		return b.preview(ctx, run, archives, sources, result)
	}
	manifest, err := b.write(ctx, run, db, archives, sources, result)
	if err != nil {
		return nil, err
	}
	if err := b.verify(ctx, run, archives, manifest, result); err != nil {
		return nil, err
	}
	result["message"] = fmt.Sprintf("Backed up %d documents of %d collections to %s", manifest.documents(), len(manifest.Collections), name)
	return b.retain(ctx, run, archives, result)
}

// chosenCollections returns the collections that a run is about, and whether its
// parameters name them.
func chosenCollections(run *template.Run) (names []string, named bool, err error) {
	permitted := run.Allowed[collectionParam]
	if len(permitted) == 0 {
		return nil, false, template.Fail(template.CodeForbidden, "this executor permits the template no collection: allow some in the executor's configuration")
	}
	if names = texts(run.Params[collectionsParam]); len(names) == 0 {
		return slices.Compact(slices.Sorted(slices.Values(permitted))), false, nil
	}
	for _, name := range names {
		if !slices.Contains(permitted, name) {
			return nil, true, notPermitted(collectionsParam, name)
		}
	}
	return names, true, nil
}

func notPermitted(param, collection string) *template.Error {
	return template.Fail(template.CodeForbidden, "%s: this executor does not permit the template to touch the collection %q: allow it in the executor's configuration", param, collection)
}

// collectionInfo is what the server tells of a collection.
type collectionInfo struct {
	Name    string `bson:"name"`
	Type    string `bson:"type"`
	Options bson.D `bson:"options"`
	Info    struct {
		UUID bson.Binary `bson:"uuid"`
	} `bson:"info"`
}

// listCollections returns what is in the database, by name.
func listCollections(ctx context.Context, db *database) (map[string]collectionInfo, error) {
	var infos []collectionInfo
	cursor, err := db.ListCollections(ctx, bson.D{})
	if err == nil {
		err = cursor.All(ctx, &infos)
	}
	if err != nil {
		return nil, db.failure(ctx, "list the collections", err)
	}
	found := make(map[string]collectionInfo, len(infos))
	for _, info := range infos {
		found[info.Name] = info
	}
	return found, nil
}

// sources describes the collections. One that is not there is an error when it
// was named, and skipped when it is only permitted.
func (backup) sources(ctx context.Context, db *database, names []string, named bool, report template.Reporter) ([]sourceCollection, []string, error) {
	there, err := listCollections(ctx, db)
	if err != nil {
		return nil, nil, err
	}
	var found []sourceCollection
	skipped := []string{}
	for _, name := range names {
		info, ok := there[name]
		problem := badCollection(name)
		switch {
		case problem != "":
		case !ok:
			problem = fmt.Sprintf("is not in the database %q", db.Name())
		case info.Type != "" && info.Type != "collection":
			problem = fmt.Sprintf("is a %s, not a plain collection", info.Type)
		}
		if problem != "" && named {
			return nil, nil, template.Fail(template.CodeValidation, "%s: %q %s", collectionsParam, name, problem)
		}
		if problem != "" {
			report.Log("WARN", fmt.Sprintf("Left out: %q is permitted, but %s", name, problem))
			skipped = append(skipped, name)
			continue
		}
		source, err := describe(ctx, db, info)
		if err != nil {
			return nil, nil, err
		}
		found = append(found, source)
	}
	if len(found) == 0 {
		return nil, nil, template.Fail(template.CodeValidation, "none of the collections permitted here is in the database %q: there is nothing to back up", db.Name())
	}
	return found, skipped, nil
}

// describe reads what a collection's metadata file says.
func describe(ctx context.Context, db *database, info collectionInfo) (sourceCollection, error) {
	source := sourceCollection{metadata: collectionMetadata{
		Options: info.Options, UUID: hex.EncodeToString(info.Info.UUID.Data), CollectionName: info.Name, Type: "collection",
	}}
	if source.metadata.Options == nil {
		source.metadata.Options = bson.D{}
	}
	indexes, err := db.Collection(info.Name).Indexes().List(ctx)
	if err == nil {
		err = indexes.All(ctx, &source.metadata.Indexes)
	}
	if err != nil {
		return source, db.failure(ctx, "list the indexes of "+info.Name, err)
	}
	if source.estimated, err = db.Collection(info.Name).EstimatedDocumentCount(ctx); err != nil {
		return source, db.failure(ctx, "count the documents of "+info.Name, err)
	}
	return source, nil
}

// preview says what a run would do.
func (b backup) preview(ctx context.Context, run *template.Run, archives *bucket, sources []sourceCollection, result template.Result) (template.Result, error) {
	var total int64
	for _, source := range sources {
		run.Report.Log("INFO", fmt.Sprintf("Would back up %s: about %d documents", source.metadata.CollectionName, source.estimated))
		total += source.estimated
	}
	old, err := b.expired(ctx, run, archives)
	if err != nil {
		return nil, err
	}
	for _, name := range old {
		run.Report.Log("INFO", "Would remove "+name)
	}
	result["records_processed"], result["removed"] = total, old
	result["message"] = fmt.Sprintf("Would back up about %d documents of %d collections to %s and remove %d older archives (dry run)",
		total, len(sources), result["object"], len(old))
	return result, nil
}

// write writes the archive and notes in the result what it is.
func (b backup) write(ctx context.Context, run *template.Run, db *database, archives *bucket, sources []sourceCollection, result template.Result) (backupManifest, error) {
	manifest := backupManifest{
		Format: backupFormat, Version: backupVersion, Database: db.Name(), JobID: run.JobID, JobName: run.JobName,
		ExecutionID: run.ExecutionID, ScheduledFor: run.ScheduledFor.UTC(),
	}
	megabytes, _ := whole(run.Settings["max_collection_mb"])
	name := backupName(run)
	run.Report.Log("INFO", "Writing "+name)
	object, err := archives.create(ctx, name, "application/gzip")
	if err != nil {
		return manifest, err
	}
	defer object.abandon()
	archive := newBackupWriter(object, manifest)
	var done, total int64
	for _, source := range sources {
		total += source.estimated
	}
	for _, source := range sources {
		progress := func(documents int64) {
			run.Report.Progress(done+documents, max(total, done+documents), "Reading "+source.metadata.CollectionName)
		}
		documents, err := b.add(ctx, db, archive, source, megabytes<<20, progress)
		if err != nil {
			return manifest, err
		}
		done += documents
		total = max(total, done)
		run.Report.Log("INFO", fmt.Sprintf("%s: %d documents", source.metadata.CollectionName, documents))
	}
	if err := archive.finish(); err != nil {
		return manifest, err
	}
	if err := object.publish(); err != nil {
		return manifest, err
	}
	manifest = archive.manifest
	collections := make([]any, len(manifest.Collections))
	for i, c := range manifest.Collections {
		collections[i] = map[string]any{"name": c.Name, "documents": c.Documents, "bytes": c.Data.Bytes}
	}
	result["bytes"], result["sha256"] = object.bytes, object.checksum()
	result["records_processed"], result["collections"] = manifest.documents(), collections
	return manifest, nil
}

// add writes one collection into the archive and returns how many documents it
// had.
func (backup) add(ctx context.Context, db *database, archive *backupWriter, source sourceCollection, most int64, progress func(int64)) (int64, error) {
	name := source.metadata.CollectionName
	// Not by way of a command with a time limit, as the clean-ups do it: reading
	// everything takes as long as it takes, and the run's own time-out bounds it.
	cursor, err := db.Collection(name).Find(ctx, bson.D{}, options.Find().SetBatchSize(batchSize))
	if err != nil {
		return 0, db.failure(ctx, "read "+name, err)
	}
	defer closeCursor(ctx, cursor)
	data, err := spool(ctx, cursorSource{cursor}, most, progress)
	var told *template.Error
	switch {
	case errors.Is(err, errTooLarge):
		return 0, template.Fail(template.CodeLimit, "%s is larger than the %d MiB that this executor permits: raise max_collection_mb in the settings of the template, if there is room for temporary files", name, most>>20)
	case errors.As(err, &told):
		return 0, told
	case err != nil:
		return 0, db.failure(ctx, "read "+name, err)
	}
	defer data.discard()
	return data.documents, archive.add(source.metadata, data)
}

// closeCursor lets go of a cursor, also when ctx has ended.
func closeCursor(ctx context.Context, cursor *mongo.Cursor) {
	farewell, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewellTime)
	defer cancel()
	_ = cursor.Close(farewell) // the server ends it by itself when this fails
}

type cursorSource struct{ cursor *mongo.Cursor }

func (s cursorSource) next(ctx context.Context) (bson.Raw, error) {
	if s.cursor.Next(ctx) {
		return s.cursor.Current, nil
	}
	if err := s.cursor.Err(); err != nil {
		return nil, err
	}
	return nil, errEnd
}

// verify reads the archive back from the bucket. One that is not what was
// written is removed, so that nobody takes it for a backup.
func (backup) verify(ctx context.Context, run *template.Run, archives *bucket, manifest backupManifest, result template.Result) error {
	name, total := backupName(run), manifest.documents()
	sum := sha256.New()
	var verified *verifiedBackup
	err := readObject(ctx, archives, name, func(object io.Reader) (err error) {
		verified, err = verifyBackup(ctx, io.TeeReader(object, sum), func(documents int64) {
			run.Report.Progress(documents, max(total, documents), "Verifying "+name)
		})
		return err
	})
	var told *template.Error
	switch {
	case err == nil && hex.EncodeToString(sum.Sum(nil)) == result["sha256"] && reflect.DeepEqual(verified.manifest.Collections, manifest.Collections):
		result["verified"] = true
		run.Report.Log("INFO", fmt.Sprintf("Verified %s: %d documents", name, total))
		return nil
	case err == nil, errors.As(err, &told) && told.Code == codeDamaged:
		reason := "it is another archive"
		if err != nil {
			reason = err.Error()
		}
		if err := removeObject(ctx, archives, name); err != nil {
			reason += "; and it could not be removed: " + err.Error()
		}
		return template.Retryable(codeDamaged, "%s was written, but reading it back failed: %s", name, reason)
	}
	return err
}

// backupName is where a run's archive goes. The job's id is part of it, so that
// jobs that share a folder do not remove each other's archives.
func backupName(run *template.Run) string {
	at := run.ScheduledFor.UTC()
	layout := backupTimeWhole
	if at.Truncate(time.Second) != at.Truncate(time.Millisecond) {
		layout = backupTime
	}
	return backupPrefix(run) + at.Format(layout) + backupEnding
}

func backupPrefix(run *template.Run) string {
	folder, _ := run.Params["folder"].(string)
	if folder == "" {
		folder = defaultBackups
	}
	return path.Clean(folder) + "/" + run.JobID + "-"
}

// parseBackupName takes apart what backupName made: all before the time, and the
// time.
func parseBackupName(name string) (prefix string, at time.Time, ok bool) {
	rest, ok := strings.CutSuffix(name, backupEnding)
	dash := strings.LastIndexByte(rest, '-')
	if !ok || dash < 0 {
		return "", at, false
	}
	at, err := time.Parse(backupTimeWhole, rest[dash+1:]) // also with a fraction
	return rest[:dash+1], at, err == nil
}

// retain removes the job's archives that need not be kept, the oldest first, and
// notes that in the result.
func (b backup) retain(ctx context.Context, run *template.Run, archives *bucket, result template.Result) (template.Result, error) {
	removed := []string{}
	old, err := b.expired(ctx, run, archives)
	for _, name := range old {
		if err = removeObject(ctx, archives, name); err != nil {
			break
		}
		run.Report.Log("INFO", "Removed "+name)
		removed = append(removed, name)
	}
	result["removed"] = removed
	run.Report.Log("INFO", fmt.Sprintf("%v; removed %d older archives", result["message"], len(removed)))
	return result, err
}

// expired lists the job's archives that need not be kept once the one of this
// run exists.
func (backup) expired(ctx context.Context, run *template.Run, archives *bucket) ([]string, error) {
	rules := keeping{at: run.ScheduledFor.UTC()}
	rules.last, _ = whole(run.Params["keep_last"])
	rules.days, _ = whole(run.Params["keep_days"])
	if rules.last == 0 && rules.days == 0 {
		return []string{}, nil
	}
	names, err := listObjects(ctx, archives, backupPrefix(run))
	if err != nil {
		return nil, err
	}
	return rules.expired(names, backupPrefix(run)), nil
}

// keeping says which archives stay; a rule that is 0 keeps none.
type keeping struct {
	at   time.Time // of the archive just written, which stays
	last int64     // how many stay, that one included
	days int64     // before at
}

// expired returns, the oldest first, those earlier archives with the prefix that
// no rule keeps. Later ones are there when an old run is attempted again: it is
// not for this run to judge them.
func (k keeping) expired(names []string, prefix string) []string {
	if k.last == 0 && k.days == 0 {
		return []string{}
	}
	earlier := map[string]time.Time{}
	for _, name := range names {
		if before, at, ok := parseBackupName(name); ok && before == prefix && at.Before(k.at.Truncate(time.Millisecond)) {
			earlier[name] = at
		}
	}
	oldestFirst := slices.SortedFunc(maps.Keys(earlier), func(a, b string) int { return earlier[a].Compare(earlier[b]) })
	oldest := k.at.AddDate(0, 0, -int(k.days))
	expired := []string{}
	for i, name := range oldestFirst {
		newer := int64(len(oldestFirst) - i) // the one just written among them
		if newer >= k.last && (k.days == 0 || earlier[name].Before(oldest)) {
			expired = append(expired, name)
		}
	}
	return expired
}

// listObjects returns the names of all objects that begin so.
func listObjects(ctx context.Context, from *bucket, prefix string) ([]string, error) {
	var names []string
	for objects := from.List(&blob.ListOptions{Prefix: prefix}); ; {
		object, err := objects.Next(ctx)
		if isEOF(err) {
			return names, nil
		}
		if err != nil {
			return nil, from.failure(ctx, "list "+prefix, err)
		}
		names = append(names, object.Key)
	}
}

// readObject opens an object and lets use read it. Whatever goes wrong with the
// bucket meanwhile is a *template.Error for use, too.
func readObject(ctx context.Context, from *bucket, name string, use func(io.Reader) error) error {
	reader, err := from.open(ctx, name)
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close() }() // what was read was read
	return use(objectReader{ctx, from, name, reader})
}

type objectReader struct {
	ctx    context.Context // of the one call of readObject
	bucket *bucket
	name   string
	from   io.Reader
}

func (r objectReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if err != nil && !isEOF(err) {
		err = r.bucket.failure(r.ctx, "read "+r.name, err)
	}
	return n, err
}

// removeObject removes an object; one that is gone already is fine.
func removeObject(ctx context.Context, from *bucket, name string) error {
	err := from.within(name, false)
	if err == nil {
		err = from.Delete(ctx, name)
	}
	if err == nil || gcerrors.Code(err) == gcerrors.NotFound || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return from.failure(ctx, "remove "+name, err)
}
