module github.com/almanac-scheduler/almanac/services/registry

go 1.26.0

replace (
	github.com/almanac-scheduler/almanac/pkg => ../../pkg
	github.com/almanac-scheduler/almanac/proto => ../../proto
)
