package builtin

import (
	"fmt"
	"math"
)

// Colours that people with any kind of sight tell apart, also on paper.
const (
	colorPlain = "#1f6feb"
	colorGood  = "#2c7fb8"
	colorBad   = "#d7301f"
	colorInk   = "#24292f"
	colorFaint = "#57606a"
	colorGrid  = "#d0d7de"
)

// chart is a stacked bar chart. Upright bars stand for points in time, lying ones
// for things with names.
type chart struct {
	Title   string
	Upright bool
	Labels  []string
	Series  []series
}

type series struct {
	Name, Color string
	Values      []float64 // one for each label
}

// drawing is a chart as shapes, which each format only has to paint. The origin
// is at the top left; one unit is about one pixel.
type drawing struct {
	Width, Height float64
	Boxes         []box
	Lines         []line
	Texts         []drawnText
}

type (
	box struct {
		X, Y, W, H float64
		Color      string
		About      string // what it stands for
	}
	line      struct{ X1, Y1, X2, Y2 float64 }
	drawnText struct {
		X, Y   float64 // of the base line
		Anchor string  // start, middle or end
		Text   string
	}
)

const (
	chartWidth = 720
	charWidth  = 6.2 // of a label's character, roughly
)

// draw lays the chart out.
func (c chart) draw() drawing {
	low, high := c.bounds()
	step := tickStep(high - low)
	low, high = math.Floor(low/step)*step, math.Ceil(high/step)*step
	if c.Upright {
		return c.drawUpright(low, high, step)
	}
	return c.drawLying(low, high, step)
}

// bounds returns the smallest and largest value that is drawn, 0 included.
func (c chart) bounds() (low, high float64) {
	for i := range c.Labels {
		up, down := 0.0, 0.0
		for _, s := range c.Series {
			up, down = up+max(s.Values[i], 0), down+min(s.Values[i], 0)
		}
		low, high = min(low, down), max(high, up)
	}
	if low == high {
		high = low + 1
	}
	return low, high
}

// tickStep returns a round distance between the marks of an axis, of which there
// are about five.
func tickStep(size float64) float64 {
	raw := size / 5
	power := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, factor := range []float64{1, 2, 5} {
		if raw <= factor*power {
			return factor * power
		}
	}
	return 10 * power
}

// legend names the series where there are several.
func (c chart) legend(d *drawing, x, y float64) {
	if len(c.Series) < 2 {
		return
	}
	for _, s := range c.Series {
		d.Boxes = append(d.Boxes, box{X: x, Y: y - 9, W: 10, H: 10, Color: s.Color, About: s.Name})
		d.Texts = append(d.Texts, drawnText{x + 15, y, "start", s.Name})
		x += 15 + charWidth*float64(len(s.Name)) + 20
	}
}

func (c chart) drawUpright(low, high, step float64) drawing {
	const left, top, plot = 60.0, 24.0, 200.0
	d := drawing{Width: chartWidth, Height: top + plot + 28}
	y := func(value float64) float64 { return top + plot*(high-value)/(high-low) }
	for mark := low; mark <= high+step/2; mark += step {
		d.Lines = append(d.Lines, line{left, y(mark), chartWidth, y(mark)})
		d.Texts = append(d.Texts, drawnText{left - 6, y(mark) + 4, "end", numberCell(mark).text})
	}
	slot := (chartWidth - left) / float64(max(len(c.Labels), 1))
	widest := 1
	for _, label := range c.Labels {
		widest = max(widest, len([]rune(label)))
	}
	every := max(1, int(math.Ceil((charWidth*float64(widest)+8)/slot))) // labels that have room
	for i, label := range c.Labels {
		x, up, down := left+slot*float64(i), 0.0, 0.0
		for _, s := range c.Series {
			value := s.Values[i]
			from := &up
			if value < 0 {
				from = &down
			}
			if value != 0 {
				d.Boxes = append(d.Boxes, box{
					X: x + slot*0.1, Y: y(max(*from, *from+value)), W: slot * 0.8, H: math.Abs(y(*from+value) - y(*from)), Color: s.Color, About: c.about(label, s, i),
				})
			}
			*from += value
		}
		if i%every == 0 {
			d.Texts = append(d.Texts, drawnText{x + slot/2, top + plot + 18, "middle", label})
		}
	}
	c.legend(&d, left, 14)
	return d
}

func (c chart) drawLying(low, high, step float64) drawing {
	const left, top, slot, longest = 210.0, 24.0, 22.0, 30
	plot := chartWidth - left - 70 // with room for the values
	d := drawing{Width: chartWidth, Height: top + slot*float64(len(c.Labels)) + 24}
	x := func(value float64) float64 { return left + plot*(value-low)/(high-low) }
	bottom := top + slot*float64(len(c.Labels))
	for mark := low; mark <= high+step/2; mark += step {
		d.Lines = append(d.Lines, line{x(mark), top, x(mark), bottom})
		d.Texts = append(d.Texts, drawnText{x(mark), bottom + 16, "middle", numberCell(mark).text})
	}
	for i, label := range c.Labels {
		y, up, down := top+slot*float64(i), 0.0, 0.0
		for _, s := range c.Series {
			value := s.Values[i]
			from := &up
			if value < 0 {
				from = &down
			}
			d.Boxes = append(d.Boxes, box{
				X: x(min(*from, *from+value)), Y: y + 3, W: math.Abs(x(*from+value) - x(*from)), H: slot - 6, Color: s.Color, About: c.about(label, s, i),
			})
			*from += value
		}
		d.Texts = append(d.Texts,
			drawnText{left - 8, y + slot/2 + 4, "end", shortLine(label, longest)},
			drawnText{x(up) + 6, y + slot/2 + 4, "start", numberCell(up + down).text})
	}
	c.legend(&d, left, 14)
	return d
}

func (c chart) about(label string, s series, i int) string {
	return fmt.Sprintf("%s: %s %s", label, numberCell(s.Values[i]).text, s.Name)
}
