package pattern

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
)

// WriteJSON writes the report as one JSON document, a row a line.
func (r Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	if _, err := fmt.Fprintf(w, "{\"seed\":%d,\"seconds\":%g,\"rows\":[\n", r.Seed, r.Seconds); err != nil {
		return err
	}
	for i, row := range r.Rows {
		if i > 0 {
			if _, err := io.WriteString(w, ","); err != nil {
				return err
			}
		}
		if err := e.Encode(row); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, "]}\n")
	return err
}

// WriteCSV writes a header, whose names are those of the JSON, and a record for each
// row. What is null there is empty.
func (r Report) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	if err := out.Write(fieldNames(reflect.TypeFor[Row]())); err != nil {
		return err
	}
	for _, row := range r.Rows {
		if err := out.Write(fields(reflect.ValueOf(row))); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}

// fieldNames returns the names of a struct's fields, those of embedded ones first.
func fieldNames(t reflect.Type) (names []string) {
	for f := range t.NumField() {
		field := t.Field(f)
		if field.Anonymous {
			names = append(names, fieldNames(field.Type)...)
			continue
		}
		names = append(names, field.Tag.Get("json"))
	}
	return names
}

// fields returns their values.
func fields(v reflect.Value) (values []string) {
	for f := range v.NumField() {
		field := v.Field(f)
		switch {
		case v.Type().Field(f).Anonymous:
			values = append(values, fields(field)...)
		case field.Kind() == reflect.Pointer && field.IsNil():
			values = append(values, "")
		case field.Kind() == reflect.Pointer:
			values = append(values, fmt.Sprint(field.Elem()))
		default:
			values = append(values, fmt.Sprint(field))
		}
	}
	return values
}

// Columns are the headings of Cells.
func Columns() []string {
	return []string{
		"pattern", "p50", "p99", "max", "behind", "mixed", "sent + received", "× payload", "messages", "whole", "read", "CPU", "queue", "wrong", "unaware",
	}
}

// Cells returns what people are shown of a row: times in seconds, bytes with a
// unit, and in how many of the agents something is wrong.
func (r Row) Cells() []string {
	return []string{
		r.Pattern, Time(r.P50), Time(r.P99), Time(r.Max), percent(r.BehindShare), percent(r.MixedShare),
		Bytes(r.SentBytes + r.ReceivedBytes), Digits(r.Ratio), strconv.FormatInt(r.Messages, 10), strconv.FormatInt(r.Wholes, 10),
		Bytes(r.ReadBytes), Digits(r.CPUSeconds) + " s", strconv.Itoa(r.QueueMessages),
		fmt.Sprintf("%d of %d", r.WrongAgents, r.Agents), strconv.Itoa(r.UnawareAgents),
	}
}

// WriteMarkdown writes a table for each point.
func (r Report) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Seed %d; states change for %g minutes.\n", r.Seed, r.Seconds/60)
	for i, row := range r.Rows {
		if i == 0 || row.Point != r.Rows[i-1].Point {
			fmt.Fprintf(&b, "\n### %s\n\n%s\n\n", row.Point, row.Describe())
			fmt.Fprintf(&b, "| %s |\n|---%s|\n", strings.Join(Columns(), " | "), strings.Repeat("|--:", len(Columns())-1))
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row.Cells(), " | "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Describe says what the point of a row is, and what happened there.
func (r Row) Describe() string {
	where := "scattered"
	if r.Clustered {
		where = "neighbours"
	}
	return fmt.Sprintf("%d objects with values of %d B, %d agents; %d commits of %d objects each at most (%s), %s of keys and values; "+
		"loss %g%%, delay %g ms, %g Mbit/s for an agent, %g for all; faults: %s.",
		r.Objects, r.ValueBytes, r.Agents, r.Commits, r.Point.Changes, where, Bytes(r.PayloadBytes),
		100*r.Loss, r.DelayMillis, r.AgentMbit, r.ServerMbit, r.Faults)
}

// Time shows seconds, or that there is no end.
func Time(s *float64) string {
	switch {
	case s == nil:
		return "never"
	case *s < 1:
		return fmt.Sprintf("%.0f ms", *s*1000)
	case *s < 100:
		return fmt.Sprintf("%.1f s", *s)
	default:
		return fmt.Sprintf("%.0f s", *s)
	}
}

// Digits shows a figure with three digits.
func Digits(x float64) string {
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x >= 0.1 || x == 0:
		return fmt.Sprintf("%.2f", x)
	default:
		return fmt.Sprintf("%.2g", x)
	}
}

// Bytes shows bytes with a unit.
func Bytes(n int64) string {
	x, unit := float64(n), 0
	for ; x >= 1000; x /= 1000 {
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return Digits(x) + " " + []string{"B", "KB", "MB", "GB", "TB", "PB"}[unit]
}

func percent(share float64) string {
	if share == 0 {
		return "0"
	}
	return Digits(100*share) + "%"
}
