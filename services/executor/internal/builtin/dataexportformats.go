package builtin

import (
	"bufio"
	"encoding/csv"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"go.mongodb.org/mongo-driver/v2/bson"
)

// The formats of an export, and what may compress it.
const (
	formatCSV    = "csv"
	formatNDJSON = "ndjson"
	formatXLSX   = "xlsx"

	compressNone = "none"
	compressGzip = "gzip"
	compressZstd = "zstd"
)

const (
	writeBuffer = 256 << 10 // bytes between a format and its bucket
	zstdWindow  = 1 << 20   // bytes; larger ones need more memory on both sides

	// sheetBytes is where a sheet is continued on the next: from 4 GiB of XML on its
	// container would need another form, which not every program reads.
	sheetBytes = 2 << 30
)

// rows takes documents and writes them in one format.
type rows interface {
	write(document bson.Raw) error
	// close writes what is still to be written. What is beneath stays open.
	close() error
	// remarks tells what people should know of what was written.
	remarks() remarks
}

// remarks count what is not in a file as it is in the documents.
type remarks struct {
	missed int64 // documents with fields that came up after the columns were found
	cut    int64 // cells that were too long for a spreadsheet
}

// extension returns the end of a file's name.
func extension(format, compression string) string {
	switch compression {
	case compressGzip:
		return format + ".gz"
	case compressZstd:
		return format + ".zst"
	}
	return format
}

func contentType(format, compression string) string {
	switch {
	case compression == compressGzip:
		return "application/gzip"
	case compression == compressZstd:
		return "application/zstd"
	case format == formatCSV:
		return "text/csv; charset=utf-8"
	case format == formatXLSX:
		return "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
	}
	return "application/x-ndjson"
}

// compressor returns a writer into w. Closing it leaves w open.
func compressor(compression string, w io.Writer) (io.WriteCloser, error) {
	switch compression {
	case compressGzip:
		return gzip.NewWriter(w), nil
	case compressZstd:
		return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow), zstd.WithLowerEncoderMem(true))
	}
	return plainWriter{w}, nil
}

type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

// newRows begins a file. Columns are for tables alone.
func newRows(format string, canonical bool, c *columns, w io.Writer) (rows, error) {
	switch format {
	case formatCSV:
		return newCSV(c, w)
	case formatXLSX:
		return newXLSX(c, w)
	}
	return &ndjsonRows{out: bufio.NewWriterSize(w, writeBuffer), canonical: canonical}, nil
}

// ndjsonRows writes each document as one line of extended JSON.
type ndjsonRows struct {
	out       *bufio.Writer
	canonical bool
}

func (r *ndjsonRows) write(document bson.Raw) error {
	line, err := bson.MarshalExtJSON(document, r.canonical, false)
	if err != nil {
		return err
	}
	_, err = r.out.Write(append(line, '\n'))
	return err
}

func (r *ndjsonRows) close() error { return r.out.Flush() }

func (*ndjsonRows) remarks() remarks { return remarks{} }

// csvRows writes a header and one record for each document.
type csvRows struct {
	columns *columns
	buffer  *bufio.Writer
	out     *csv.Writer
	cells   []cell
	record  []string
	noted   remarks
}

func newCSV(c *columns, w io.Writer) (*csvRows, error) {
	buffer := bufio.NewWriterSize(w, writeBuffer)
	r := &csvRows{columns: c, buffer: buffer, out: csv.NewWriter(buffer), cells: make([]cell, len(c.names)), record: make([]string, len(c.names))}
	for i, name := range c.names {
		r.record[i] = harmless(name)
	}
	return r, r.emit()
}

func (r *csvRows) write(document bson.Raw) error {
	missed, err := r.columns.row(document, r.cells)
	if err != nil {
		return err
	}
	if missed {
		r.noted.missed++
	}
	for i, c := range r.cells {
		if r.record[i] = c.text; c.kind == cellText {
			r.record[i] = harmless(c.text)
		}
	}
	return r.emit()
}

func (r *csvRows) emit() error {
	if len(r.record) == 1 && r.record[0] == "" {
		// The package would write an empty line, which no reader takes for a record.
		r.out.Flush()
		_, err := r.buffer.WriteString("\"\"\n")
		return err
	}
	if len(r.record) == 0 {
		return nil // there was no document to take columns from
	}
	return r.out.Write(r.record)
}

func (r *csvRows) close() error {
	r.out.Flush()
	if err := r.out.Error(); err != nil {
		return err
	}
	return r.buffer.Flush()
}

func (r *csvRows) remarks() remarks { return r.noted }

// xlsxRows writes a workbook with a header and one row for each document, on as
// many sheets as that takes.
type xlsxRows struct {
	columns *columns
	buffer  *bufio.Writer
	book    *workbook
	sheets  int
	cells   []cell
	missed  int64
}

func newXLSX(c *columns, w io.Writer) (*xlsxRows, error) {
	buffer := bufio.NewWriterSize(w, writeBuffer)
	r := &xlsxRows{columns: c, buffer: buffer, book: newWorkbook(buffer), cells: make([]cell, len(c.names))}
	return r, r.begin()
}

// begin begins a sheet with the header.
func (r *xlsxRows) begin() error {
	name := "Data"
	if r.sheets++; r.sheets > 1 {
		name = fmt.Sprintf("Data %d", r.sheets)
	}
	if err := r.book.sheet(name, len(r.columns.names)); err != nil {
		return err
	}
	header := make([]cell, len(r.columns.names))
	for i, column := range r.columns.names {
		header[i] = cell{kind: cellText, text: column}
	}
	return r.book.write(header, styleBold)
}

func (r *xlsxRows) write(document bson.Raw) error {
	missed, err := r.columns.row(document, r.cells)
	if err != nil {
		return err
	}
	if missed {
		r.missed++
	}
	if r.book.row >= maxSheetRows || r.book.bytes > sheetBytes {
		if err := r.begin(); err != nil {
			return err
		}
	}
	return r.book.write(r.cells, 0)
}

func (r *xlsxRows) close() error {
	if err := r.book.close(); err != nil {
		return err
	}
	return r.buffer.Flush()
}

func (r *xlsxRows) remarks() remarks { return remarks{missed: r.missed, cut: r.book.cut} }
