module github.com/almanac-scheduler/almanac/deploy/verify

go 1.26.0
