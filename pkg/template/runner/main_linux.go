package runner

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

// Main is the whole of a runner program: it serves the templates over the
// process's standard input and output until the executor is gone, and returns
// the exit code. Whatever a template prints goes to standard error instead, of
// which the executor keeps the beginning for the case of a crash.
func Main(templates ...template.JobTemplate) int {
	set, err := template.NewSet(templates...)
	if err == nil {
		err = serveStandard(set)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "runner:", err)
		return 1
	}
	return 0
}

func serveStandard(set *template.Set) error {
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err == nil {
		return fmt.Errorf("this program is started by an executor, which talks to it over a pipe: name it as the executor's --runner")
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	in, err := takeOver(0, null)
	if err != nil {
		return err
	}
	out, err := takeOver(1, os.Stderr)
	if err != nil {
		return err
	}
	return Serve(context.Background(), mortal{in}, out, set)
}

// takeOver moves a standard stream to a descriptor that neither templates nor
// the programs they start can meet by accident, and puts another file in its
// place.
func takeOver(fd int, instead *os.File) (*os.File, error) {
	moved, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("standard stream %d: %w", fd, err)
	}
	if err := unix.Dup3(int(instead.Fd()), fd, 0); err != nil {
		return nil, fmt.Errorf("standard stream %d: %w", fd, err)
	}
	return os.NewFile(uintptr(moved), fmt.Sprintf("protocol-%d", fd)), nil
}

// mortal is the executor's end of the conversation. When it is gone the runner
// kills its process group, itself included: a run must not outlive the executor
// that answers for it, and neither must a program that the run has started. (A
// parent-death signal would kill this process first and spare the others.)
type mortal struct{ in io.Reader }

func (m mortal) Read(p []byte) (int, error) {
	n, err := m.in.Read(p)
	if err != nil && syscall.Getpgrp() == syscall.Getpid() {
		_ = syscall.Kill(0, syscall.SIGKILL)
	}
	return n, err
}
