module github.com/almanac-scheduler/almanac/deploy/local

go 1.26.0

require (
	github.com/almanac-scheduler/almanac/pkg v0.0.0
	github.com/almanac-scheduler/almanac/proto v0.0.0
)

replace (
	github.com/almanac-scheduler/almanac/pkg => ../../pkg
	github.com/almanac-scheduler/almanac/proto => ../../proto
)
