// Package runner is how templates run in a child process, and how to build a
// runner that carries templates of one's own:
//
//	func main() { os.Exit(runner.Main(mytemplates.Cleanup{}, mytemplates.Report{})) }
//
// Build it with CGO_ENABLED=0: it has to start fast, and inside its confinement
// it finds no shared libraries.
//
// # Protocol
//
// An executor starts a runner with an empty environment and talks to it over
// the runner's standard input and output, in frames: the length of the body as
// four bytes, most significant first, then the body, a JSON object of at most
// MaxFrameBytes. Downwards go Request frames, upwards Reply frames.
//
// The first request is Setup. The runner confines itself accordingly, before it
// has seen any parameter or secret, and answers with a Hello that says what is
// in force. Then follow any number of requests, one at a time: Describe, which
// may carry the templates' settings, is answered by Templates, Run by Log and
// Progress frames and at last one Result. While a run is under way the only
// permitted request is Cancel, which ends the run's context; a Cancel that
// arrives after its Result was sent is ignored.
//
// A runner that loses its executor, which shows as the end of its standard
// input, kills its own process group, and so leaves nothing behind.
package runner
