module github.com/almanac-scheduler/almanac/services/executor

go 1.26.0

replace (
	github.com/almanac-scheduler/almanac/pkg => ../../pkg
	github.com/almanac-scheduler/almanac/proto => ../../proto
)

require (
	github.com/almanac-scheduler/almanac/pkg v0.0.0-00010101000000-000000000000
	go.mongodb.org/mongo-driver/v2 v2.10.0
)

require (
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.3 // indirect
	github.com/xdg-go/scram v1.4.0 // indirect
	github.com/xdg-go/stringprep v1.0.4 // indirect
	github.com/youmark/pkcs8 v0.0.0-20240726163527-a2c0da244d78 // indirect
	golang.org/x/crypto v0.54.0 // indirect
	golang.org/x/sync v0.23.0 // indirect
	golang.org/x/text v0.42.0 // indirect
)
