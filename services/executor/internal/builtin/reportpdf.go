package builtin

import (
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"

	"codeberg.org/go-pdf/fpdf"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
)

// Lengths on a page of A4, in millimetres.
const (
	pageMargin = 15.0
	pageWidth  = 210 - 2*pageMargin
	rowHeight  = 5.5
	perPixel   = pageWidth / chartWidth
)

// pdf writes a document with the dates of the run, not of the writing.
func (r *report) pdf(made time.Time, w io.Writer) error {
	p := fpdf.New("P", "mm", "A4", "")
	p.SetCatalogSort(true)
	p.SetCreationDate(made)
	p.SetModificationDate(made)
	p.SetTitle(r.Title, true)
	p.SetMargins(pageMargin, pageMargin, pageMargin)
	p.SetAutoPageBreak(true, pageMargin+5)
	// Fonts with Latin, Greek and Cyrillic letters; only the parts used are kept.
	p.AddUTF8FontFromBytes("go", "", goregular.TTF)
	p.AddUTF8FontFromBytes("go", "B", gobold.TTF)
	p.AliasNbPages("{pages}")
	p.SetFooterFunc(func() {
		p.SetY(-pageMargin)
		p.SetFont("go", "", 7.5)
		p.SetTextColor(rgb(colorFaint))
		p.CellFormat(pageWidth/2, 5, fitted(p, "Made by the job \""+r.Job+"\" for "+r.ScheduledFor, pageWidth/2), "", 0, "L", false, 0, "")
		p.CellFormat(pageWidth/2, 5, strconv.Itoa(p.PageNo())+" / {pages}", "", 0, "R", false, 0, "")
	})
	p.AddPage()
	p.SetDrawColor(rgb(colorGrid))
	p.SetLineWidth(0.1)
	p.SetFont("go", "B", 18)
	p.MultiCell(pageWidth, 8, drawable(r.Title), "", "L", false)
	p.SetFont("go", "", 10)
	p.SetTextColor(rgb(colorFaint))
	p.MultiCell(pageWidth, 6, drawable(r.About), "", "L", false)
	p.Ln(3)
	r.pdfFigures(p)
	for _, d := range r.drawings() {
		r.pdfHeading(p, d.Title, d.Height*perPixel)
		pdfDrawing(p, d.drawing)
	}
	for _, t := range r.Tables {
		r.pdfTable(p, t)
	}
	return p.Output(w)
}

// drawable leaves out what the fonts or the library cannot show.
func drawable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r > 0xFFFF:
			return '?'
		case unicode.IsControl(r):
			return ' '
		}
		return r
	}, s)
}

// fitted cuts a text to a width.
func fitted(p *fpdf.Fpdf, s string, width float64) string {
	s = drawable(s)
	if p.GetStringWidth(s) <= width-2 {
		return s
	}
	runes := []rune(s)
	for len(runes) > 0 && p.GetStringWidth(string(runes)+"…") > width-2 {
		runes = runes[:len(runes)-1]
	}
	return string(runes) + "…"
}

// pdfFigures writes two figures a line.
func (r *report) pdfFigures(p *fpdf.Fpdf) {
	const half = pageWidth / 2
	for i, f := range r.Figures {
		p.SetFont("go", "", 9)
		p.SetTextColor(rgb(colorFaint))
		p.CellFormat(half*0.65, rowHeight, fitted(p, f.Name, half*0.65), "B", 0, "L", false, 0, "")
		p.SetFont("go", "B", 9)
		p.SetTextColor(rgb(colorInk))
		next := 0
		if i%2 == 1 || i == len(r.Figures)-1 {
			next = 1
		}
		p.CellFormat(half*0.3, rowHeight, fitted(p, f.Value.text, half*0.3), "B", next, "R", false, 0, "")
		if next == 0 {
			p.CellFormat(half*0.05, rowHeight, "", "", 0, "", false, 0, "")
		}
	}
}

// pdfHeading begins a section that needs so much room under its heading.
func (r *report) pdfHeading(p *fpdf.Fpdf, title string, room float64) {
	_, height := p.GetPageSize()
	if p.GetY()+14+room > height-pageMargin-5 {
		p.AddPage()
	} else {
		p.Ln(5)
	}
	p.SetFont("go", "B", 12)
	p.SetTextColor(rgb(colorInk))
	p.CellFormat(pageWidth, 8, fitted(p, title, pageWidth), "", 1, "L", false, 0, "")
}

// rgb returns the parts of a colour such as #1f6feb.
func rgb(hex string) (red, green, blue int) {
	n, err := strconv.ParseUint(strings.TrimPrefix(hex, "#"), 16, 24)
	if err != nil {
		return 0, 0, 0
	}
	return int(n >> 16), int(n >> 8 & 0xff), int(n & 0xff)
}

// pdfDrawing paints a chart. One taller than a page is made smaller.
func pdfDrawing(p *fpdf.Fpdf, d drawing) {
	const tallest = 230.0
	scale := min(perPixel, tallest/d.Height)
	x0, y0 := p.GetX(), p.GetY()
	for _, l := range d.Lines {
		p.Line(x0+l.X1*scale, y0+l.Y1*scale, x0+l.X2*scale, y0+l.Y2*scale)
	}
	for _, b := range d.Boxes {
		p.SetFillColor(rgb(b.Color))
		p.Rect(x0+b.X*scale, y0+b.Y*scale, b.W*scale, b.H*scale, "F")
	}
	p.SetFont("go", "", 11*scale/0.3528) // points are 0.3528 mm
	p.SetTextColor(rgb(colorInk))
	for _, t := range d.Texts {
		text := drawable(t.Text)
		x := x0 + t.X*scale
		switch t.Anchor {
		case "middle":
			x -= p.GetStringWidth(text) / 2
		case "end":
			x -= p.GetStringWidth(text)
		}
		p.Text(x, y0+t.Y*scale, text)
	}
	p.SetXY(x0, y0+d.Height*scale)
}

// pdfTable writes a table, its header again on each page.
func (r *report) pdfTable(p *fpdf.Fpdf, t table) {
	r.pdfHeading(p, t.Title, 3*rowHeight)
	if len(t.Rows) == 0 {
		p.SetFont("go", "", 9)
		p.CellFormat(pageWidth, rowHeight, fitted(p, t.None, pageWidth), "", 1, "L", false, 0, "")
		return
	}
	widths := columnWidths(p, t)
	header := func() {
		p.SetFont("go", "B", 8)
		for i, column := range t.Columns {
			align := "L"
			if t.Numeric(i) {
				align = "R"
			}
			p.CellFormat(widths[i], rowHeight, fitted(p, column, widths[i]), "B", 0, align, false, 0, "")
		}
		p.Ln(rowHeight)
		p.SetFont("go", "", 8)
	}
	header()
	_, height := p.GetPageSize()
	for _, row := range t.Rows {
		if p.GetY()+rowHeight > height-pageMargin-5 {
			p.AddPage()
			p.SetTextColor(rgb(colorInk))
			header()
		}
		for i, c := range row {
			align := "L"
			if c.Numeric() {
				align = "R"
			}
			p.CellFormat(widths[i], rowHeight, fitted(p, c.text, widths[i]), "B", 0, align, false, 0, "")
		}
		p.Ln(rowHeight)
	}
}

// columnWidths shares the page among the columns by what they hold, so that no
// long text leaves the others without room.
func columnWidths(p *fpdf.Fpdf, t table) []float64 {
	const least, most = 12.0, 70.0
	p.SetFont("go", "B", 8)
	widths, sum := make([]float64, len(t.Columns)), 0.0
	for i, column := range t.Columns {
		widest := p.GetStringWidth(drawable(column))
		for _, row := range t.Rows {
			widest = max(widest, p.GetStringWidth(drawable(row[i].text)))
		}
		widths[i] = min(max(widest+3, least), most)
		sum += widths[i]
	}
	for i := range widths {
		widths[i] *= pageWidth / sum
	}
	return widths
}
