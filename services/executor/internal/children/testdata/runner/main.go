// Command runner holds one template that misbehaves on demand, for the tests of
// package children.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
)

func main() { os.Exit(runner.Main(odd{})) }

type odd struct{}

func (odd) Descriptor() template.Descriptor {
	return template.Descriptor{
		Type: "odd", Version: 1, Name: "Odd", Description: "Does what it is told", Category: "test", Icon: "x",
		EstimatedDuration: "-", ResourceUsage: "low", RiskLevel: "low",
	}
}

func (odd) Schema() map[string]any {
	return map[string]any{"type": "object", "properties": map[string]any{
		"do": map[string]any{"type": "string"}, "n": map[string]any{"type": "integer"},
	}, "required": []any{"do"}}
}

func (odd) SettingsSchema() map[string]any {
	return map[string]any{"type": "object", "properties": map[string]any{"oddity": map[string]any{"type": "integer", "default": 3}}}
}

func (odd) ValidateSettings(map[string]any) error { return nil }

func (odd) ValidateParams(map[string]any) error { return nil }

var runs int

func (odd) Execute(ctx context.Context, run *template.Run) (template.Result, error) {
	runs++
	n, _ := run.Params["n"].(float64)
	result := template.Result{"message": "done", "pid": os.Getpid(), "runs": runs}
	switch run.Params["do"] {
	case "nothing":
	case "fail":
		return result, template.Retryable("connection", "nobody answers")
	case "log":
		for i := range int(n) {
			run.Report.Log("INFO", "line "+strconv.Itoa(i))
		}
		run.Report.Progress(int64(n), int64(n), "all")
	case "print":
		fmt.Println("to standard output")
	case "exit":
		fmt.Fprintln(os.Stderr, "I have had enough")
		os.Exit(3)
	case "panic":
		panic("out of sorts")
	case "wait":
		run.Report.Log("INFO", "waiting")
		<-ctx.Done()
		return template.Result{"message": "half"}, ctx.Err()
	case "hang":
		run.Report.Log("INFO", "hanging")
		select {}
	case "fork":
		pid, err := grandchild()
		if err != nil {
			return nil, err
		}
		run.Report.Log("INFO", strconv.Itoa(os.Getpid()))
		run.Report.Log("INFO", strconv.Itoa(pid))
		select {}
	case "eat":
		var kept [][]byte
		for range int(n) {
			kept = append(kept, make([]byte, 1<<20))
			for i := 0; i < 1<<20; i += 4096 {
				kept[len(kept)-1][i] = 1
			}
		}
		result["kept"] = len(kept)
	case "burn":
		for end := time.Now().Add(time.Duration(n) * time.Second); time.Now().Before(end); {
			continue
		}
	case "look":
		look(run, result)
	case "store":
		result["stored"], result["outside"] = store(run)
	case "leave":
		if err := os.WriteFile("left", nil, 0o600); err != nil {
			return nil, err
		}
	}
	return result, nil
}

// grandchild forks a process that sleeps, without a program to execute: the
// confinement permits none.
func grandchild() (int, error) {
	pid, _, errno := syscall.RawSyscall(syscall.SYS_FORK, 0, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	if pid == 0 {
		for {
			syscall.RawSyscall(syscall.SYS_PAUSE, 0, 0, 0)
		}
	}
	return int(pid), nil
}

// store moves a new file from one subfolder to another in the folder of each
// connection, and tries the folder above. It counts what it could do.
func store(run *template.Run) (stored, outside int) {
	for _, c := range run.Connections {
		from, to := filepath.Join(c.Folder(), "part"), filepath.Join(c.Folder(), "whole")
		_ = os.Mkdir(from, 0o755)
		_ = os.Mkdir(to, 0o755)
		if os.WriteFile(filepath.Join(from, "x"), []byte("x"), 0o644) == nil && os.Rename(filepath.Join(from, "x"), filepath.Join(to, "x")) == nil {
			stored++
		}
		if _, err := os.ReadDir(filepath.Dir(c.Folder())); err == nil {
			outside++
		}
	}
	return stored, outside
}

// look tells what the process can see and do.
func look(run *template.Run, result template.Result) {
	result["environ"] = os.Environ()
	result["args"] = os.Args
	result["uid"] = os.Getuid()
	result["connections"] = run.Connections
	result["settings"] = run.Settings
	result["stdin"], _ = os.Readlink("/proc/self/fd/0")
	var data, files syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_DATA, &data)
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files)
	result["memory"], result["files"] = data.Cur, files.Cur
	dir, _ := os.Getwd()
	entries, _ := os.ReadDir(".")
	result["dir"], result["entries"] = dir, len(entries)
	result["own"] = os.WriteFile(filepath.Join(dir, "own"), []byte("x"), 0o600) == nil
	outside := filepath.Join(filepath.Dir(dir), "almanac-outside-"+strconv.Itoa(os.Getpid()))
	if os.WriteFile(outside, nil, 0o600) == nil {
		result["outside"] = true
		os.Remove(outside)
	}
	_, err := os.ReadFile("/etc/passwd")
	result["passwd"] = err == nil
	_, err = os.ReadFile("/etc/hosts")
	result["hosts"] = err == nil
	fds := []string{}
	for fd := range 32 {
		if _, err := syscall.Getsockname(fd); err == syscall.ENOTSOCK {
			fds = append(fds, strconv.Itoa(fd))
		}
	}
	result["fds"] = strings.Join(fds, " ")
}
