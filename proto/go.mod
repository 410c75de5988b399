module github.com/almanac-scheduler/almanac/proto

go 1.26.0
