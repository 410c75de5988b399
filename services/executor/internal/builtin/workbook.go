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
	charts  []bookChart
}

// bookChart is a chart beside the cells that it shows.
type bookChart struct {
	sheet int // from 1
	chart chart
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
	head := xmlHead + `<worksheet` + mainSpace + ` xmlns:r="` + documentSpace + `"><sheetViews><sheetView workbookViewId="0"><pane ySplit="1" topLeftCell="A2" activePane="bottomLeft" state="frozen"/></sheetView></sheetViews>`
	if columns > 0 {
		head += fmt.Sprintf(`<cols><col min="1" max="%d" width="%d" customWidth="1"/></cols>`, columns, columnWidth)
	}
	return b.put(head + `<sheetData>`)
}

func (b *workbook) endSheet() error {
	if len(b.sheets) == 0 {
		return nil
	}
	end := `</sheetData>`
	if n := len(b.charts); n > 0 && b.charts[n-1].sheet == len(b.sheets) {
		end += `<drawing r:id="rId1"/>`
	}
	if err := b.put(end + `</worksheet>`); err != nil {
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

// draw adds a sheet with the numbers of a chart and, beside them, the chart.
func (b *workbook) draw(name string, c chart) error {
	header := []cell{{}}
	for _, s := range c.Series {
		header = append(header, textCell(s.Name))
	}
	if err := b.sheet(name, len(header)); err != nil {
		return err
	}
	if err := b.write(header, styleBold); err != nil {
		return err
	}
	for i, label := range c.Labels {
		row := []cell{textCell(label)}
		for _, s := range c.Series {
			row = append(row, numberCell(s.Values[i]))
		}
		if err := b.write(row, 0); err != nil {
			return err
		}
	}
	b.charts = append(b.charts, bookChart{sheet: len(b.sheets), chart: c})
	return nil
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
	var parts [][2]string
	for i, c := range b.charts {
		n := strconv.Itoa(i + 1)
		parts = append(parts, c.parts(n, b.sheets[c.sheet-1])...)
		types.WriteString(`<Override PartName="/xl/drawings/drawing` + n + `.xml" ContentType="application/vnd.openxmlformats-officedocument.drawing+xml"/>` +
			`<Override PartName="/xl/charts/chart` + n + `.xml" ContentType="application/vnd.openxmlformats-officedocument.drawingml.chart+xml"/>`)
	}
	for _, part := range append(parts, [][2]string{
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
	}...) {
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

// parts returns the files of the chart with that number: the sheet's reference to
// a drawing, the drawing, its reference to the chart, and the chart.
func (c bookChart) parts(n, sheetName string) [][2]string {
	const drawings = "http://schemas.openxmlformats.org/drawingml/2006/"
	refer := func(kind, target string) string {
		return `<Relationships xmlns="` + packageSpace + `relationships"><Relationship Id="rId1" Type="` + documentSpace + `/` + kind + `" Target="../` + target + `"/></Relationships>`
	}
	columns, rows := len(c.chart.Series)+1, len(c.chart.Labels)+1
	cells := func(column, from, to int) string {
		letters := columnLetters(column)
		return escaped(fmt.Sprintf("'%s'!$%s$%d:$%s$%d", sheetName, letters, from, letters, to))
	}
	var drawn strings.Builder
	for i, s := range c.chart.Series {
		fmt.Fprintf(&drawn, `<c:ser><c:idx val="%d"/><c:order val="%d"/><c:tx><c:strRef><c:f>%s</c:f></c:strRef></c:tx>`+
			`<c:spPr><a:solidFill><a:srgbClr val="%s"/></a:solidFill></c:spPr><c:invertIfNegative val="0"/>`+
			`<c:cat><c:strRef><c:f>%s</c:f></c:strRef></c:cat><c:val><c:numRef><c:f>%s</c:f></c:numRef></c:val></c:ser>`,
			i, i, cells(i+1, 1, 1), strings.ToUpper(strings.TrimPrefix(s.Color, "#")), cells(0, 2, rows), cells(i+1, 2, rows))
	}
	direction, order, side, other, meet := "bar", "maxMin", "l", "b", "max"
	if c.chart.Upright {
		direction, order, side, other, meet = "col", "minMax", "b", "l", "autoZero"
	}
	axis := func(kind, id, order, side, grid, crossing, meet, rest string) string {
		return `<c:` + kind + `><c:axId val="` + id + `"/><c:scaling><c:orientation val="` + order + `"/></c:scaling><c:delete val="0"/><c:axPos val="` + side + `"/>` + grid +
			`<c:numFmt formatCode="General" sourceLinked="0"/><c:majorTickMark val="none"/><c:minorTickMark val="none"/><c:tickLblPos val="low"/>` +
			`<c:crossAx val="` + crossing + `"/><c:crosses val="` + meet + `"/>` + rest + `</c:` + kind + `>`
	}
	height := max(20, min(len(c.chart.Labels)+4, 60))
	if c.chart.Upright {
		height = 20
	}
	return [][2]string{
		{fmt.Sprintf("xl/worksheets/_rels/sheet%d.xml.rels", c.sheet), refer("drawing", "drawings/drawing"+n+".xml")},
		{"xl/drawings/drawing" + n + ".xml", `<xdr:wsDr xmlns:xdr="` + drawings + `spreadsheetDrawing" xmlns:a="` + drawings + `main"><xdr:twoCellAnchor>` +
			fmt.Sprintf(`<xdr:from><xdr:col>%d</xdr:col><xdr:colOff>0</xdr:colOff><xdr:row>1</xdr:row><xdr:rowOff>0</xdr:rowOff></xdr:from>`, columns+1) +
			fmt.Sprintf(`<xdr:to><xdr:col>%d</xdr:col><xdr:colOff>0</xdr:colOff><xdr:row>%d</xdr:row><xdr:rowOff>0</xdr:rowOff></xdr:to>`, columns+13, height+1) +
			`<xdr:graphicFrame macro=""><xdr:nvGraphicFramePr><xdr:cNvPr id="2" name="Chart ` + n + `"/><xdr:cNvGraphicFramePr/></xdr:nvGraphicFramePr>` +
			`<xdr:xfrm><a:off x="0" y="0"/><a:ext cx="0" cy="0"/></xdr:xfrm><a:graphic><a:graphicData uri="` + drawings + `chart">` +
			`<c:chart xmlns:c="` + drawings + `chart" xmlns:r="` + documentSpace + `" r:id="rId1"/></a:graphicData></a:graphic></xdr:graphicFrame><xdr:clientData/></xdr:twoCellAnchor></xdr:wsDr>`},
		{"xl/drawings/_rels/drawing" + n + ".xml.rels", refer("chart", "charts/chart"+n+".xml")},
		{"xl/charts/chart" + n + ".xml", `<c:chartSpace xmlns:c="` + drawings + `chart" xmlns:a="` + drawings + `main"><c:roundedCorners val="0"/><c:chart>` +
			`<c:title><c:tx><c:rich><a:bodyPr/><a:p><a:r><a:rPr lang="en-US" sz="1400"/><a:t>` + escaped(c.chart.Title) + `</a:t></a:r></a:p></c:rich></c:tx><c:overlay val="0"/></c:title>` +
			`<c:autoTitleDeleted val="0"/><c:plotArea><c:layout/><c:barChart><c:barDir val="` + direction + `"/><c:grouping val="stacked"/><c:varyColors val="0"/>` + drawn.String() +
			`<c:gapWidth val="40"/><c:overlap val="100"/><c:axId val="111"/><c:axId val="222"/></c:barChart>` +
			axis("catAx", "111", order, side, "", "222", "autoZero", `<c:auto val="0"/><c:lblAlgn val="ctr"/><c:lblOffset val="100"/><c:noMultiLvlLbl val="0"/>`) +
			axis("valAx", "222", "minMax", other, `<c:majorGridlines/>`, "111", meet, `<c:crossBetween val="between"/>`) +
			`</c:plotArea><c:legend><c:legendPos val="b"/><c:overlay val="0"/></c:legend><c:plotVisOnly val="1"/><c:dispBlanksAs val="gap"/></c:chart></c:chartSpace>`},
	}
}

// columnLetters returns the name of a column, counted from 0: A to Z, AA, ...
func columnLetters(i int) string {
	name := ""
	for i++; i > 0; i = (i - 1) / 26 {
		name = string(rune('A'+(i-1)%26)) + name
	}
	return name
}
