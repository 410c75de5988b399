package builtin

import (
	"encoding/json"
	"testing"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
)

// Half a million documents of 390 bytes, 100,000 in short mode, are backed up and
// restored, each in a confined child that never has 100 MB: half of what the
// documents are together.
func TestBackupAndRestoreInConstantMemory(t *testing.T) {
	count := int64(500_000)
	if testing.Short() {
		count = 100_000
	}
	const most = 100_000_000
	database := newManyDocuments(t, count)
	folder, archives := newFolder(t)
	for _, step := range []struct {
		template string
		params   map[string]any
		settings map[string]any
	}{
		{"backup", nil, map[string]any{"max_collection_mb": 1000}},
		{"restore", map[string]any{"object": "backups/job_1-20251019T020000Z.tar.gz", "dryRun": false}, map[string]any{"max_archive_mb": 1000}},
	} {
		params, err := json.Marshal(step.params)
		if err != nil {
			t.Fatal(err)
		}
		result, peak := inChild(t, &runner.Run{
			Template: step.template, ExecutionID: "exec_1", JobID: "job_1", JobName: "Big", Attempt: 1, ScheduledFor: origin, Params: params,
			Connections: map[string]template.Connection{"main": database, "archives": archives},
			Allowed:     map[string][]string{collectionParam: {"users"}, connectionParam: {"main"}, destinationParam: {"archives"}, sourceParam: {"archives"}},
			Settings:    step.settings,
		}, folder)
		if result.Status != runner.StatusSuccess {
			t.Fatalf("%s: %+v", step.template, result)
		}
		t.Logf("%s of %d documents: %d MB of memory at most", step.template, count, peak/1_000_000)
		if peak > most {
			t.Errorf("%s: the child had %d bytes of memory, more than %d", step.template, peak, int64(most))
		}
		var told struct {
			Records int64 `json:"records_processed"`
		}
		if err := json.Unmarshal(result.Result, &told); err != nil || told.Records != count {
			t.Errorf("%s: %d documents (%v), want %d", step.template, told.Records, err, count)
		}
	}
}
