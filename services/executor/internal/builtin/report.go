package builtin

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"
)

// report is what all formats show. Its fields are exported for the HTML template.
type report struct {
	Title        string
	About        string // what it is on: the period, the collection
	Job          string
	ScheduledFor string
	Figures      []figure
	Charts       []chart
	Tables       []table
}

// figure is a number at the head of a report.
type figure struct {
	Name  string
	Value cell
}

// table is a list in a report. None is said when it is empty.
type table struct {
	Title   string
	Columns []string
	Rows    [][]cell
	None    string
}

// Numeric reports whether a column has numbers and nothing else.
func (t table) Numeric(column int) bool {
	found := false
	for _, row := range t.Rows {
		if row[column].kind != cellEmpty && !row[column].Numeric() {
			return false
		}
		found = found || row[column].Numeric()
	}
	return found
}

// Text is what the cell shows.
func (c cell) Text() string { return c.text }

// Numeric reports whether the cell holds a number.
func (c cell) Numeric() bool { return c.kind == cellNumber || c.kind == cellDigits }

func textCell(s string) cell {
	if s == "" {
		return cell{}
	}
	return cell{kind: cellText, text: s}
}

func wholeCell(n int64) cell { return cell{kind: cellNumber, text: strconv.FormatInt(n, 10)} }

// numberCell shows a number with at most three digits behind the point.
func numberCell(f float64) cell {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return cell{}
	}
	if math.Abs(f) < 1e12 {
		f = math.Round(f*1000) / 1000
	}
	return cell{kind: cellNumber, text: strconv.FormatFloat(f+0, 'f', -1, 64)}
}

func upperFirst(s string) string {
	first, size := utf8.DecodeRuneInString(s)
	return strings.ToUpper(string(first)) + s[size:]
}

// figures returns the numbers by name, as JSON values.
func (r *report) figures() map[string]any {
	found := make(map[string]any, len(r.Figures))
	for _, f := range r.Figures {
		if number, err := strconv.ParseFloat(f.Value.text, 64); err == nil && f.Value.Numeric() {
			found[f.Name] = number
		} else {
			found[f.Name] = f.Value.text
		}
	}
	return found
}

// render writes the report. Everything in it follows from the run, not from the
// clock: the same report is the same file.
func (r *report) render(format string, made time.Time, w io.Writer) error {
	switch format {
	case formatPDF:
		return r.pdf(made, w)
	case formatXLSX:
		return r.xlsx(w)
	}
	return r.html(w)
}

// text writes the report for a mail.
func (r *report) text() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n%s\n\n", r.Title, r.About)
	aligned := tabwriter.NewWriter(&out, 0, 1, 2, ' ', 0)
	for _, f := range r.Figures {
		fmt.Fprintf(aligned, "%s\t%s\n", oneLine(f.Name), oneLine(f.Value.text))
	}
	_ = aligned.Flush() // into memory
	for _, t := range r.Tables {
		fmt.Fprintf(&out, "\n%s\n", t.Title)
		if len(t.Rows) == 0 {
			fmt.Fprintf(&out, "%s\n", t.None)
			continue
		}
		aligned := tabwriter.NewWriter(&out, 0, 1, 2, ' ', 0)
		fmt.Fprintln(aligned, strings.Join(t.Columns, "\t"))
		for _, row := range t.Rows {
			texts := make([]string, len(row))
			for i, c := range row {
				texts[i] = shortLine(c.text, 60)
			}
			fmt.Fprintln(aligned, strings.Join(texts, "\t"))
		}
		_ = aligned.Flush() // into memory
	}
	fmt.Fprintf(&out, "\nMade by the job %q for %s.\n", r.Job, r.ScheduledFor)
	return out.String()
}

// oneLine keeps a text from breaking lines and columns.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// shortLine returns the text on one line of at most so many characters.
func shortLine(s string, most int) string {
	s = oneLine(s)
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-1]) + "…"
}

// xlsx writes the figures, each chart with its numbers, and each table on a sheet.
func (r *report) xlsx(w io.Writer) error {
	book := newWorkbook(w)
	sheet := func(name string, columns []string, rows [][]cell) error {
		if err := book.sheet(name, len(columns)); err != nil {
			return err
		}
		header := make([]cell, len(columns))
		for i, column := range columns {
			header[i] = textCell(column)
		}
		if err := book.write(header, styleBold); err != nil {
			return err
		}
		for _, row := range rows {
			if err := book.write(row, 0); err != nil {
				return err
			}
		}
		return nil
	}
	rows := [][]cell{{textCell("On"), textCell(r.About)}, {textCell("Job"), textCell(r.Job)}, {textCell("Scheduled for"), textCell(r.ScheduledFor)}}
	for _, f := range r.Figures {
		rows = append(rows, []cell{textCell(f.Name), f.Value})
	}
	if err := sheet("Summary", []string{r.Title, ""}, rows); err != nil {
		return err
	}
	number := 0
	for _, c := range r.Charts {
		if number++; len(c.Labels) > 0 {
			if err := book.draw(sheetName(c.Title, number), c); err != nil {
				return err
			}
		}
	}
	for _, t := range r.Tables {
		number++
		if err := sheet(sheetName(t.Title, number), t.Columns, t.Rows); err != nil {
			return err
		}
	}
	return book.close()
}

// sheetName makes a name that spreadsheets accept, which the number keeps apart
// from others.
func sheetName(title string, n int) string {
	plain := strings.Map(func(r rune) rune {
		if strings.ContainsRune(`[]:*?/\'`, r) {
			return ' '
		}
		return r
	}, title)
	return fmt.Sprintf("%d %s", n, shortLine(plain, 27))
}
