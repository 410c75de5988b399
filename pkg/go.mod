module github.com/almanac-scheduler/almanac/pkg

go 1.26.0

require (
	github.com/netresearch/go-cron v0.9.1
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.3
	golang.org/x/text v0.14.0 // indirect
)
