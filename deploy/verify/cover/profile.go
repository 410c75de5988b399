package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
)

// block is what the profiles say of one piece of straight code.
type block struct {
	statements int
	covered    bool
}

// tally counts the statements of a package or of everything.
type tally struct {
	statements int
	covered    int
}

func (t tally) percent() float64 {
	return 100 * float64(t.covered) / float64(t.statements)
}

func readFile(name string, blocks map[string]block) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := read(file, blocks); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// read adds a profile in the text format of `go test -coverprofile`: a mode
// line, then "file.go:line.column,line.column statements count" a block.
func read(r io.Reader, blocks map[string]block) error {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if strings.HasPrefix(line, "mode: ") || line == "" {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) != 3 || !strings.Contains(fields[0], ":") {
			return fmt.Errorf("line %d is no coverage block: %q", n, line)
		}
		statements, err := strconv.Atoi(fields[1])
		if err != nil {
			return fmt.Errorf("line %d: number of statements: %w", n, err)
		}
		count, err := strconv.ParseUint(fields[2], 10, 64)
		if err != nil {
			return fmt.Errorf("line %d: count: %w", n, err)
		}
		if strings.HasPrefix(fields[0], generated) {
			continue
		}
		blocks[fields[0]] = block{statements: statements, covered: count > 0 || blocks[fields[0]].covered}
	}
	return lines.Err()
}

// summarise adds the blocks up, by package and in total.
func summarise(blocks map[string]block) (packages map[string]tally, total tally) {
	packages = map[string]tally{}
	for position, b := range blocks {
		file, _, _ := strings.Cut(position, ":")
		t := packages[path.Dir(file)]
		t.statements += b.statements
		total.statements += b.statements
		if b.covered {
			t.covered += b.statements
			total.covered += b.statements
		}
		packages[path.Dir(file)] = t
	}
	return packages, total
}
