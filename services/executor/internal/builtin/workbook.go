package builtin

import (
	"archive/zip"
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/flate"
)

const (
	maxSheetRows = 1_048_576 // of every spreadsheet program, the header included
	maxCellText  = 32_767    // characters
	columnWidth  = 22        // in characters, roughly

	// styleBold is the one style beside the ordinary.
	styleBold = 1
)

// workbook writes an XLSX file as it goes: what is written is compressed and
// passed on at once, so that its size costs no memory. A sheet is begun and
// filled before the next. Libraries for this keep the sheets until the end.
type workbook struct {
	zip     *zip.Writer
	buffer  *bufio.Writer // to the sheet's entry
	sheets  []string
	letters []string // of the columns: A, B, ...
	row     int      // the last one written, from 1
	bytes   int64    // of the sheet, before compression
	cut     int64    // texts that were longer than a cell
}

func newWorkbook(w io.Writer) *workbook {
	b := &workbook{zip: zip.NewWriter(w), buffer: bufio.NewWriterSize(nil, writeBuffer)}
	b.zip.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.DefaultCompression) })
	return b
}

const (
	xmlHead       = `<?xml version="1.0" encoding="UTF-8" standalone="yes"?>` + "\n"
	mainSpace     = ` xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"`
	packageSpace  = "http://schemas.openxmlformats.org/package/2006/"
	documentSpace = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
)

// sheet begins a sheet of that many columns, whose first row, the header, stays
// in view.
func (b *workbook) sheet(name string, columns int) error {
	if err := b.endSheet(); err != nil {
		return err
	}
	b.sheets = append(b.sheets, name)
	entry, err := b.zip.Create(fmt.Sprintf("xl/worksheets/sheet%d.xml", len(b.sheets)))
	if err != nil {
		return err
	}
	b.buffer.Reset(entry)
	b.row, b.bytes = 0, 0
	for i := len(b.letters); i < columns; i++ {
		b.letters = append(b.letters, columnLetters(i))
	}
	head := xmlHead + `<worksheet` + mainSpace + `><sheetViews><sheetView workbookViewId="0"><pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/></sheetView></sheetViews>`
	if columns > 0 {
		head += fmt.Sprintf(`<cols><col min="1" max="%d" width="%d" customWidth="1"/></cols>`, columns, columnWidth)
	}
	return b.put(head + `<sheetData>`)
}

func (b *workbook) endSheet() error {
	if len(b.sheets) == 0 {
		return nil
	}
	if err := b.put(`</sheetData></worksheet>`); err != nil {
		return err
	}
	return b.buffer.Flush()
}

func (b *workbook) put(s string) error {
	b.bytes += int64(len(s))
	_, err := b.buffer.WriteString(s)
	return err
}

// write adds a row to the sheet. Style is 0 or styleBold. Texts are made harmless,
// and cut to what a cell takes.
func (b *workbook) write(cells []cell, style int) error {
	b.row++
	row := strconv.Itoa(b.row)
	if err := b.put(`<row r="` + row + `">`); err != nil {
		return err
	}
	for i, c := range cells {
		if c.kind == cellEmpty {
			continue
		}
		begin := `<c r="` + b.letters[i] + row + `"`
		if style != 0 {
			begin += ` s="` + strconv.Itoa(style) + `"`
		}
		switch c.kind {
		case cellNumber:
			begin += `><v>` + c.text + `</v></c>`
		case cellBool:
			begin += ` t="b"><v>` + map[bool]string{false: "0", true: "1"}[c.text == "true"] + `</v></c>`
		default:
			text := c.text
			if c.kind == cellText {
				text = b.fit(harmless(text))
			}
			begin += ` t="inlineStr"><is><t xml:space="preserve">` + escaped(text) + `</t></is></c>`
		}
		if err := b.put(begin); err != nil {
			return err
		}
	}
	return b.put(`</row>`)
}

// fit cuts a text to what a cell takes, and counts that.
func (b *workbook) fit(s string) string {
	if len(s) <= maxCellText || utf8.RuneCountInString(s) <= maxCellText {
		return s
	}
	b.cut++
	return string([]rune(s)[:maxCellText])
}

// codeLike is what spreadsheets read as the code of a character.
var codeLike = regexp.MustCompile(`_(x[0-9A-Fa-f]{4}_)`)

// escaped returns the text as XML. What XML cannot hold becomes U+FFFD.
func escaped(s string) string {
	if strings.Contains(s, "_x") {
		s = codeLike.ReplaceAllString(s, "_x005F_$1")
	}
	if !strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' || r == utf8.RuneError || strings.ContainsRune("&<>\"'\ufffe\uffff", r)
	}) {
		return s
	}
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(s)) // only the writer could fail
	return out.String()
}

// close ends the file.
func (b *workbook) close() error {
	if err := b.endSheet(); err != nil {
		return err
	}
	var sheets, relations, types strings.Builder
	for i, name := range b.sheets {
		n := strconv.Itoa(i + 1)
		sheets.WriteString(`<sheet name="` + escaped(name) + `" sheetId="` + n + `" r:id="rId` + n + `"/>`)
		relations.WriteString(`<Relationship Id="rId` + n + `" Type="` + documentSpace + `/worksheet" Target="worksheets/sheet` + n + `.xml"/>`)
		types.WriteString(`<Override PartName="/xl/worksheets/sheet` + n + `.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/>`)
	}
	for _, part := range [][2]string{
		{"xl/workbook.xml", `<workbook` + mainSpace + ` xmlns:r="` + documentSpace + `"><sheets>` + sheets.String() + `</sheets></workbook>`},
		{"xl/_rels/workbook.xml.rels", `<Relationships xmlns="` + packageSpace + `relationships">` + relations.String() +
			`<Relationship Id="rIdStyles" Type="` + documentSpace + `/styles" Target="styles.xml"/></Relationships>`},
		{"xl/styles.xml", `<styleSheet` + mainSpace + `><fonts count="2"><font><sz val="11"/><name val="Calibri"/></font><font><b/><sz val="11"/><name val="Calibri"/></font></fonts>` +
			`<fills count="2"><fill><patternFill patternType="none"/></fill><fill><patternFill patternType="gray125"/></fill></fills>` +
			`<borders count="1"><border><left/><right/><top/><bottom/><diagonal/></border></borders>` +
			`<cellStyleXfs count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0"/></cellStyleXfs>` +
			`<cellXfs count="2"><xf numFmtId="0" fontId="0" fillId="0" borderId="0" xfId="0"/><xf numFmtId="0" fontId="1" fillId="0" borderId="0" xfId="0" applyFont="1"/></cellXfs></styleSheet>`},
		{"_rels/.rels", `<Relationships xmlns="` + packageSpace + `relationships"><Relationship Id="rId1" Type="` + documentSpace + `/officeDocument" Target="xl/workbook.xml"/></Relationships>`},
		{"[Content_Types].xml", `<Types xmlns="` + packageSpace + `content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>` +
			`<Default Extension="xml" ContentType="application/xml"/>` +
			`<Override PartName="/xl/workbook.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>` +
			`<Override PartName="/xl/styles.xml" ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.styles+xml"/>` + types.String() + `</Types>`},
	} {
		entry, err := b.zip.Create(part[0])
		if err != nil {
			return err
		}
		if _, err := io.WriteString(entry, xmlHead+part[1]); err != nil {
			return err
		}
	}
	return b.zip.Close()
}

// columnLetters returns the name of a column, counted from 0: A to Z, AA, ...
func columnLetters(i int) string {
	name := ""
	for i++; i > 0; i = (i - 1) / 26 {
		name = string(rune('A'+(i-1)%26)) + name
	}
	return name
}
