module example.com/hello

go 1.26.0

require github.com/almanac-scheduler/almanac/pkg v0.0.0

require (
	github.com/landlock-lsm/go-landlock v0.11.0 // indirect
	github.com/santhosh-tekuri/jsonschema/v6 v6.0.3 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	kernel.org/pub/linux/libs/security/libcap/psx v1.2.77 // indirect
)

replace github.com/almanac-scheduler/almanac/pkg => ../../pkg
