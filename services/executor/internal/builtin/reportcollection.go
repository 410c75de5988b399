package builtin

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/almanac-scheduler/almanac/pkg/template"
)

const (
	perValue = "value"
	perDay   = "day"
	perMonth = "month"

	measureCount   = "count"
	measureSum     = "sum"
	measureAverage = "average"
	measureMinimum = "minimum"
	measureMaximum = "maximum"

	noGroup     = "(none)"
	otherGroups = "(others)"
)

// collectionOrder is what is asked of a collection. The grouping is done here,
// not by the server, so that it is the same for every server and for a field
// with lists or several types.
type collectionOrder struct {
	collection string
	filter     condition
	dateField  string
	period     period
	groupBy    string
	per        string
	measure    string
	field      string
}

func collectionOrderOf(params map[string]any, run *template.Run, p period) (collectionOrder, error) {
	text := func(name string) string { s, _ := params[name].(string); return s }
	c := collectionOrder{
		collection: text("collection"), period: p, dateField: text("date_field"),
		groupBy: text("group_by"), per: cmp.Or(text("group_per"), perValue), measure: cmp.Or(text("measure"), measureCount), field: text("field"),
	}
	for _, name := range []string{"date_field", "group_by", "field"} {
		if problem := badName(text(name)); text(name) != "" && problem != "" {
			return c, template.BadParam(name, "is not a field's path: %s", problem)
		}
	}
	switch {
	case c.measure != measureCount && c.field == "":
		return c, template.BadParam("field", "is required for the measure %s", c.measure)
	case c.measure == measureCount && c.field != "":
		return c, template.BadParam("field", "is for measures other than count: choose one, or drop it")
	case c.per != perValue && c.groupBy == "":
		return c, template.BadParam("group_by", "is required to group per %s: name a field that holds dates", c.per)
	}
	raw, _ := params["filter"].(map[string]any)
	var err error
	if c.filter, err = parseFilter("filter", raw, run.ScheduledFor, run.Zone); err != nil {
		return c, err
	}
	if c.dateField != "" {
		within := bson.D{{Key: c.dateField, Value: bson.D{
			{Key: "$gte", Value: bson.NewDateTimeFromTime(p.from)}, {Key: "$lt", Value: bson.NewDateTimeFromTime(p.to)},
		}}}
		if len(c.filter.filter) > 0 {
			within = bson.D{{Key: "$and", Value: bson.A{c.filter.filter, within}}}
		}
		c.filter.filter = within
		c.filter.dates = slices.Compact(slices.Sorted(slices.Values(append(c.filter.dates, c.dateField))))
	}
	return c, nil
}

// groupTally gathers what the documents of a group have.
type groupTally struct {
	name     string
	count    int64 // documents
	numbers  int64 // documents with a number
	sum      float64
	min, max float64
}

func (t *groupTally) add(number float64, has bool) {
	t.count++
	if !has {
		return
	}
	if t.numbers == 0 || number < t.min {
		t.min = number
	}
	if t.numbers == 0 || number > t.max {
		t.max = number
	}
	t.numbers++
	t.sum += number
}

// join takes another group into this one.
func (t *groupTally) join(other *groupTally) {
	if other.numbers > 0 {
		if t.numbers == 0 || other.min < t.min {
			t.min = other.min
		}
		if t.numbers == 0 || other.max > t.max {
			t.max = other.max
		}
	}
	t.count, t.numbers, t.sum = t.count+other.count, t.numbers+other.numbers, t.sum+other.sum
}

// value returns the measure, or false when there is no number to take it from.
func (t *groupTally) value(measure string) (float64, bool) {
	switch measure {
	case measureCount:
		return float64(t.count), true
	case measureSum:
		return t.sum, true
	case measureAverage:
		return t.sum / float64(max(t.numbers, 1)), t.numbers > 0
	case measureMinimum:
		return t.min, t.numbers > 0
	}
	return t.max, t.numbers > 0
}

// groupOf names the group of a document.
func (c *collectionOrder) groupOf(document bson.Raw, zone *time.Location) (string, error) {
	if c.groupBy == "" {
		return "", nil
	}
	if c.per == perValue {
		found, err := cellAt(document, strings.Split(c.groupBy, "."))
		return cmp.Or(found.text, noGroup), err
	}
	var found []bson.RawValue
	if _, err := gather(bson.RawValue{Type: bson.TypeEmbeddedDocument, Value: document}, strings.Split(c.groupBy, "."), &found); err != nil {
		return "", err
	}
	if len(found) != 1 || found[0].Type != bson.TypeDateTime {
		return noGroup, nil
	}
	layout := time.DateOnly
	if c.per == perMonth {
		layout = "2006-01"
	}
	return time.UnixMilli(found[0].DateTime()).In(zone).Format(layout), nil
}

// numberOf returns the number in a field, if there is one.
func (c *collectionOrder) numberOf(document bson.Raw) (float64, bool, error) {
	if c.field == "" {
		return 0, false, nil
	}
	found, err := cellAt(document, strings.Split(c.field, "."))
	if err != nil || found.kind != cellNumber && found.kind != cellDigits {
		return 0, false, err
	}
	number, err := strconv.ParseFloat(found.text, 64)
	return number, err == nil && !math.IsInf(number, 0), nil // a decimal beyond all floats is no number here
}

// summarise reads the collection and makes the report.
func (o *reportOrder) summarise(ctx context.Context, db *database, zone *time.Location, log template.Reporter) (*report, int64, error) {
	c := &o.collection
	for _, field := range c.filter.dates {
		db.warnOfText(ctx, c.collection, field, log)
	}
	total, err := db.total(ctx, c.collection, c.filter, log)
	if err != nil {
		return nil, 0, err
	}
	wanted := []string{"_id"}
	for _, field := range []string{c.groupBy, c.field} {
		if field != "" {
			wanted = append(wanted, field)
		}
	}
	groups := map[string]*groupTally{}
	all := &groupTally{}
	q := query{collection: c.collection, filter: c.filter.filter, projection: projection(wanted), limit: o.most + 1}
	err = db.each(ctx, q, func(document bson.Raw, n int64) error {
		if n > o.most {
			return template.Fail(template.CodeLimit, "more than %d documents match, which this executor does not permit: narrow the filter or the period", o.most)
		}
		name, err := c.groupOf(document, zone)
		if err != nil {
			return err
		}
		number, has, err := c.numberOf(document)
		if err != nil {
			return err
		}
		group := groups[name]
		if group == nil {
			if len(groups) == maxGroups {
				return template.Fail(template.CodeLimit, "%s has more than %d values: group by a field with fewer, or per day or month", c.groupBy, maxGroups)
			}
			group = &groupTally{name: name}
			groups[name] = group
		}
		group.add(number, has)
		all.add(number, has)
		if n%progressEvery == 0 {
			log.Progress(n, max(total, n), fmt.Sprintf("Read %d of %d documents", n, max(total, n)))
		}
		return nil
	})
	if err != nil {
		return nil, 0, template.AsError(err)
	}
	return c.report(groups, all, o.top), all.count, nil
}

// report makes the report of the groups.
func (c *collectionOrder) report(groups map[string]*groupTally, all *groupTally, top int) *report {
	made := &report{About: "all documents of " + c.collection}
	if c.dateField != "" {
		made.About = c.collection + " with " + c.dateField + " on " + c.period.String()
	}
	what := "documents"
	if c.measure != measureCount {
		what = c.measure + " of " + c.field
	}
	made.Figures = append(made.Figures, figure{"Documents", wholeCell(all.count)})
	if c.measure != measureCount {
		made.Figures = append(made.Figures, figure{"Documents with a number in " + c.field, wholeCell(all.numbers)})
		if value, ok := all.value(c.measure); ok {
			made.Figures = append(made.Figures, figure{upperFirst(what), numberCell(value)})
		}
	}
	if c.groupBy == "" {
		return made
	}
	made.Figures = append(made.Figures, figure{"Groups", wholeCell(int64(len(groups)))})
	listed := c.arrange(groups, top)
	grouped := table{Title: upperFirst(what) + " by " + c.groupBy, Columns: []string{c.groupBy, "documents"}, None: "No documents."}
	if c.per != perValue {
		grouped.Title += " per " + c.per
	}
	drawn := chart{Title: grouped.Title, Upright: c.per != perValue}
	values := series{Name: what, Color: colorPlain}
	if c.measure != measureCount {
		grouped.Columns = append(grouped.Columns, what)
	}
	for _, g := range listed {
		row := []cell{{kind: cellText, text: g.name}, wholeCell(g.count)}
		value, ok := g.value(c.measure)
		if c.measure != measureCount {
			row = append(row, cell{})
			if ok {
				row[2] = numberCell(value)
			}
		}
		grouped.Rows = append(grouped.Rows, row)
		drawn.Labels, values.Values = append(drawn.Labels, g.name), append(values.Values, value)
	}
	drawn.Series = []series{values}
	made.Charts, made.Tables = []chart{drawn}, []table{grouped}
	return made
}

// arrange puts the groups in order, dates by time and others by size, and takes
// those beyond the first together. Of dates the last are kept.
func (c *collectionOrder) arrange(groups map[string]*groupTally, top int) []*groupTally {
	listed := make([]*groupTally, 0, len(groups))
	for _, g := range groups {
		listed = append(listed, g)
	}
	dated := c.per != perValue
	slices.SortFunc(listed, func(a, b *groupTally) int {
		if dated {
			return strings.Compare(b.name, a.name)
		}
		x, _ := a.value(c.measure)
		y, _ := b.value(c.measure)
		return cmp.Or(cmp.Compare(y, x), strings.Compare(a.name, b.name))
	})
	var rest *groupTally
	if len(listed) > top+1 { // one alone is shown as it is
		rest = &groupTally{name: otherGroups}
		for _, g := range listed[top:] {
			rest.join(g)
		}
		listed = listed[:top]
	}
	if dated {
		slices.Reverse(listed)
		if rest != nil {
			listed = slices.Insert(listed, 0, rest)
		}
	} else if rest != nil {
		listed = append(listed, rest)
	}
	return listed
}
