package runner

import (
	"fmt"
	"os"
	"runtime/debug"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// confine puts the calling process under the limits asked for and says what is
// in force. Limits that the kernel refuses are an error; Landlock and the other
// user are best effort, for not every kernel and container has them.
func confine(s Setup) ([]string, error) {
	isolation := []string{"process"}
	limits := []struct {
		what     string
		resource int
		value    int64
	}{
		{"memory", unix.RLIMIT_DATA, s.MemoryBytes},
		{"open files", unix.RLIMIT_NOFILE, s.OpenFiles},
	}
	limited := s.CPUSeconds > 0 // applied before each run
	for _, l := range limits {
		if l.value <= 0 {
			continue
		}
		limited = true
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: uint64(l.value), Max: uint64(l.value)}); err != nil {
			return nil, fmt.Errorf("limit of %s: %w", l.what, err)
		}
	}
	if limited {
		// A core file could hold a connection's secret.
		if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
			return nil, fmt.Errorf("limit of core files: %w", err)
		}
		isolation = append(isolation, "rlimits")
	}
	if s.MemoryBytes > 0 {
		// Collect harder before the limit ends the process.
		debug.SetMemoryLimit(s.MemoryBytes / 10 * 8)
	}
	if s.UID > 0 && os.Getuid() == 0 && becomeUser(s.UID, s.GID) == nil {
		isolation = append(isolation, "user")
	}
	for _, folder := range s.Folders {
		if err := unix.Access(folder, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
			return nil, fmt.Errorf("folder %s: user %d cannot read and write there, or cannot enter a folder above it: %w", folder, os.Getuid(), err)
		}
	}
	if s.Dir == "" {
		return isolation, nil
	}
	if err := os.Setenv("TMPDIR", s.Dir); err != nil {
		return nil, fmt.Errorf("folder for temporary files: %w", err)
	}
	// So that neither another runner of the same user nor a debugger reads
	// secrets from this one's memory.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("protecting the memory: %w", err)
	}
	version, err := ll.LandlockGetABIVersion()
	if err != nil || version < 1 || restrictPaths(s.Dir, s.Folders) != nil {
		return isolation, nil //nolint:nilerr // not in force, and so not named: the record shows it
	}
	return append(isolation, "landlock", "no_new_privs"), nil // Landlock's library sets the latter on all threads
}

// becomeUser drops root for good, with all its capabilities and groups.
func becomeUser(uid, gid int) error {
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return err
	}
	return syscall.Setresuid(uid, uid, uid)
}

// restrictPaths leaves writing in dir and in the folders, and reading of what
// names and certificates need. Within a folder files may also be moved from one
// subfolder to another, which takes a permission of its own.
func restrictPaths(dir string, folders []string) error {
	rules := []landlock.Rule{
		landlock.RWDirs(dir),
		landlock.RWFiles("/dev/null").IgnoreIfMissing(),
		landlock.ROFiles("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/services", "/etc/localtime").IgnoreIfMissing(),
		landlock.RODirs("/run/systemd/resolve", "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr/share/ca-certificates",
			"/usr/local/share/ca-certificates", "/usr/share/zoneinfo").IgnoreIfMissing(),
	}
	if len(folders) > 0 {
		rules = append(rules, landlock.RWDirs(folders...).WithRefer())
	}
	return landlock.V5.BestEffort().RestrictPaths(rules...)
}

// allowCPU permits the process so many seconds more than it has used, and up to
// two more for rounding. Then it gets SIGXCPU every second.
func allowCPU(seconds int64) error {
	if seconds <= 0 {
		return nil
	}
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		return fmt.Errorf("CPU time used: %w", err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CPU, &limit); err != nil {
		return fmt.Errorf("limit of CPU time: %w", err)
	}
	limit.Cur = min(uint64(used.Utime.Sec+used.Stime.Sec+1+seconds), limit.Max)
	if err := unix.Setrlimit(unix.RLIMIT_CPU, &limit); err != nil {
		return fmt.Errorf("limit of CPU time: %w", err)
	}
	return nil
}
