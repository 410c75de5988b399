package children

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/almanac-scheduler/almanac/pkg/template"
	"github.com/almanac-scheduler/almanac/pkg/template/runner"
)

// key says whom a warm child may serve.
type key struct{ template, organisation, folders string }

// child is one runner process. Whoever has taken it from the pool owns it.
type child struct {
	key       key
	isolation []string
	runs      int

	cmd      *exec.Cmd
	dir      string
	in, out  *os.File
	requests chan runner.Request // to the writer; closed at the end
	replies  chan runner.Reply   // from the reader; closed when the child says no more
	gone     chan struct{}       // closed when the child is given up
	pipes    sync.WaitGroup      // the writer and the reader
	printed  opening
}

// startTimeout bounds how long a runner may take to confine itself.
const startTimeout = 10 * time.Second

// start starts a child that may write to the folders, and waits for its hello.
func (p *Pool) start(ctx context.Context, folders []string) (*child, error) {
	dir, err := os.MkdirTemp("", "almanac-run-")
	if err != nil {
		return nil, fmt.Errorf("a folder for a runner: %w", err)
	}
	setup := p.config.Setup
	setup.Dir, setup.Folders = dir, folders
	if setup.UID > 0 && os.Getuid() == 0 {
		err = os.Chown(dir, setup.UID, setup.GID)
	}
	var c *child
	if err == nil {
		c, err = launch(p.config.Path, dir)
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("runner %s: %w", p.config.Path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c.requests <- runner.Request{Setup: &setup}
	select {
	case reply, ok := <-c.replies:
		if ok && reply.Hello != nil {
			c.isolation = reply.Hello.Isolation
			return c, nil
		}
		c.destroy()
		return nil, fmt.Errorf("runner %s gives no hello%s", p.config.Path, c.lastWords())
	case <-ctx.Done():
		c.destroy()
		return nil, fmt.Errorf("runner %s gives no hello: %w", p.config.Path, context.Cause(ctx))
	}
}

func launch(path, dir string) (*child, error) {
	childIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer childIn.Close()
	out, childOut, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer childOut.Close()
	c := &child{
		dir: dir, in: in, out: out,
		requests: make(chan runner.Request, 2), replies: make(chan runner.Reply, 64), gone: make(chan struct{}),
	}
	// Its end is not a context's: the group is killed and seen to be gone.
	c.cmd = exec.CommandContext(context.Background(), path)
	c.cmd.Dir, c.cmd.Env = dir, []string{}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = childIn, childOut, &c.printed
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// What escaped from the group may hold standard error open.
	c.cmd.WaitDelay = time.Second
	if err := c.cmd.Start(); err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	c.pipes.Add(2)
	go c.write()
	go c.read()
	return c, nil
}

// write sends requests. A failure shows as the end of the replies.
func (c *child) write() {
	defer c.pipes.Done()
	for request := range c.requests {
		if runner.WriteFrame(c.in, request) != nil {
			c.in.Close() // which ends the child, if it still lives
			for range c.requests {
				continue // until destroy
			}
		}
	}
}

func (c *child) read() {
	defer c.pipes.Done()
	defer close(c.replies)
	out := bufio.NewReaderSize(c.out, 16<<10)
	for {
		var reply runner.Reply
		if runner.ReadFrame(out, &reply) != nil {
			return
		}
		select {
		case c.replies <- reply:
		case <-c.gone:
			return
		}
	}
}

// crashed says how a child ended that should not have. What it printed goes to
// the run's log.
func (c *child) crashed(report template.Reporter) *runner.Result {
	c.destroy()
	for line := range strings.Lines(c.printed.String()) {
		report.Log("ERROR", strings.TrimRight(line, "\n"))
	}
	return &runner.Result{
		Status: runner.StatusCrashed, ErrorCode: CodeCrashed,
		Error: "The runner ended before the run did" + c.lastWords() + ".",
	}
}

// lastWords says how a destroyed child ended, and the first line that it printed.
func (c *child) lastWords() string {
	c.destroy()
	words := " (" + c.cmd.ProcessState.String() + ")"
	for line := range strings.Lines(c.printed.String()) {
		return words + ": " + strings.TrimSpace(line)
	}
	return words
}

// destroy kills the child's process group and returns when nothing of it is
// left. It may be called again.
func (c *child) destroy() {
	if c.gone == nil {
		return
	}
	group := c.cmd.Process.Pid
	_ = syscall.Kill(-group, syscall.SIGKILL) // ESRCH: it is gone already
	close(c.gone)
	close(c.requests)
	_ = c.cmd.Wait() // ProcessState says it
	// What the child had started is this process's to wait for now.
	for {
		_, err := unix.Wait4(-group, nil, 0, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			break // ECHILD: none is left
		}
	}
	c.in.Close()
	c.out.Close()
	c.pipes.Wait()
	_ = os.RemoveAll(c.dir) // what is left of a temporary folder harms nobody
	c.gone = nil
}

// tidy empties the child's folder for the next run.
func (c *child) tidy() error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(c.dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// opening keeps the beginning of what is printed, where the Go runtime says why
// it ends a process.
type opening struct {
	mu   sync.Mutex
	kept []byte
}

const openingBytes = 4 << 10

// Write keeps what still has room and drops the rest.
func (o *opening) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = append(o.kept, p[:min(len(p), openingBytes-len(o.kept))]...)
	return len(p), nil
}

func (o *opening) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.kept)
}

func (o *opening) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = o.kept[:0]
}
