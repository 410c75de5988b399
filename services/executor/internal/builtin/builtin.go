// Package builtin holds the job templates that Almanac ships.
package builtin

import "github.com/almanac-scheduler/almanac/pkg/template"

// Templates returns the shipped templates, ordered by type.
func Templates() []template.JobTemplate {
	return []template.JobTemplate{
		backup{},
		channelMessage{},
		dataExport{},
		databaseCleanup{},
		emailNotification{},
		reportGeneration{},
		restore{},
		testScheduler{},
		ticketCleanup{},
		webhookTrigger{},
	}
}
