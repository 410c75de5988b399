package builtin

import (
	"archive/zip"
	"bufio"
	"encoding/csv"
	"fmt"
	"io"
	"os"
	"unicode/utf8"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/xuri/excelize/v2"
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

	// A sheet that would have more rows, or more text, is continued on the next:
	// the first is the limit of spreadsheets, the second keeps the sheet's XML far
	// below the 4 GiB from which its container needs another form.
	sheetRows = excelize.TotalRows
	sheetText = 512 << 20

	maxCellText = excelize.TotalCellChars
)

// rows takes documents and writes them in one format.
type rows interface {
	write(document bson.Raw) error
	// close writes what is still to be written. What is beneath stays open.
	close() error
	// discard lets go of what is kept meanwhile, also after close.
	discard()
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

func (*ndjsonRows) discard() {}

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

func (*csvRows) discard() {}

func (r *csvRows) remarks() remarks { return r.noted }

// xlsxRows writes a workbook. Its sheets are gathered in a temporary file and
// compressed into w at the end.
type xlsxRows struct {
	columns *columns
	out     io.Writer
	file    *excelize.File
	bold    int
	sheets  int
	sheet   *excelize.StreamWriter
	next    int // row, from 1
	text    int // bytes in the sheet
	cells   []cell
	values  []any
	noted   remarks
}

func newXLSX(c *columns, w io.Writer) (*xlsxRows, error) {
	r := &xlsxRows{
		columns: c, out: w, file: excelize.NewFile(excelize.Options{TmpDir: os.TempDir()}),
		cells: make([]cell, len(c.names)), values: make([]any, len(c.names)),
	}
	var err error
	if r.bold, err = r.file.NewStyle(&excelize.Style{Font: &excelize.Font{Bold: true}}); err != nil {
		return nil, err
	}
	return r, r.begin()
}

// begin begins a sheet with the header.
func (r *xlsxRows) begin() error {
	r.sheets++
	name := "Data"
	var err error
	if r.sheets == 1 {
		err = r.file.SetSheetName("Sheet1", name)
	} else {
		name = fmt.Sprintf("Data %d", r.sheets)
		_, err = r.file.NewSheet(name)
	}
	if err != nil {
		return err
	}
	if r.sheet, err = r.file.NewStreamWriter(name); err != nil {
		return err
	}
	if err := r.sheet.SetPanes(&excelize.Panes{Freeze: true, YSplit: 1, TopLeftCell: "A2", ActivePane: "bottomLeft"}); err != nil {
		return err
	}
	if len(r.columns.names) > 0 {
		if err := r.sheet.SetColWidth(1, len(r.columns.names), 22); err != nil {
			return err
		}
	}
	header := make([]any, len(r.columns.names))
	for i, column := range r.columns.names {
		header[i] = excelize.Cell{StyleID: r.bold, Value: r.fit(harmless(column))}
	}
	r.next, r.text = 2, 0
	return r.sheet.SetRow("A1", header)
}

func (r *xlsxRows) write(document bson.Raw) error {
	missed, err := r.columns.row(document, r.cells)
	if err != nil {
		return err
	}
	if missed {
		r.noted.missed++
	}
	if r.next > sheetRows || r.text > sheetText {
		if err := r.sheet.Flush(); err != nil {
			return err
		}
		if err := r.begin(); err != nil {
			return err
		}
	}
	for i, c := range r.cells {
		switch c.kind {
		case cellEmpty:
			r.values[i] = nil
		case cellNumber:
			r.values[i] = c.number
		case cellBool:
			r.values[i] = c.truth
		case cellDigits:
			r.values[i] = c.text
		case cellText:
			r.values[i] = r.fit(harmless(c.text))
		}
		r.text += len(c.text)
	}
	at, err := excelize.CoordinatesToCellName(1, r.next)
	if err != nil {
		return err
	}
	r.next++
	return r.sheet.SetRow(at, r.values)
}

// fit cuts a text to what a cell takes, and counts that.
func (r *xlsxRows) fit(s string) string {
	if len(s) <= maxCellText || utf8.RuneCountInString(s) <= maxCellText {
		return s
	}
	r.noted.cut++
	return string([]rune(s)[:maxCellText])
}

func (r *xlsxRows) close() error {
	if err := r.sheet.Flush(); err != nil {
		return err
	}
	buffer := bufio.NewWriterSize(r.out, writeBuffer)
	// The package would gather the whole file in memory. Into its own writer it
	// writes as it goes.
	r.file.SetZipWriter(func(io.Writer) excelize.ZipWriter {
		packer := zip.NewWriter(buffer)
		packer.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.DefaultCompression) })
		return packer
	})
	if err := r.file.Write(io.Discard); err != nil {
		return err
	}
	return buffer.Flush()
}

// discard removes the temporary files.
func (r *xlsxRows) discard() { _ = r.file.Close() }

func (r *xlsxRows) remarks() remarks { return r.noted }
