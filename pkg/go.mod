module github.com/almanac-scheduler/almanac/pkg

go 1.26.0
