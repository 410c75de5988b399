module github.com/almanac-scheduler/almanac/deploy/local

go 1.26.0

require (
	github.com/almanac-scheduler/almanac/pkg v0.0.0
	github.com/almanac-scheduler/almanac/proto v0.0.0
)

require (
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/spf13/cobra v1.10.2 // indirect
	github.com/spf13/pflag v1.0.9 // indirect
)

replace (
	github.com/almanac-scheduler/almanac/pkg => ../../pkg
	github.com/almanac-scheduler/almanac/proto => ../../proto
)
