package desired_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"espalier/internal/desired"
)

// failing returns a host's word of n failures.
func failing(n int) desired.Convergence {
	c := desired.Convergence{
		Desired: desired.Digest{1}, Applied: desired.Digest{2}, Observed: desired.Digest{3}, State: desired.Waiting, Reason: "the next attempt is due in 8s",
		Objects: 100, Pending: 7, Failed: uint64(n), Unmanaged: 3, Drifted: 1, Found: 5, Corrected: 4, Guarded: 2,
		Stages: desired.Stages{Waited: 1500 * time.Millisecond, Transferred: 20 * time.Microsecond, Applied: time.Hour},
	}
	for i := range n {
		c.Failures = append(c.Failures, desired.Failure{
			Key: fmt.Sprintf("files/%03d", i), Error: "no space left", Attempts: 3, Since: time.UnixMilli(1_700_000_000_123).UTC(), Next: time.UnixMilli(1_700_000_060_000).UTC(),
		})
	}
	return c
}

func TestConvergenceBounded(t *testing.T) {
	long := strings.Repeat("x", desired.MaxFailureBytes-1) + "ü"
	c := failing(desired.MaxFailures + 4)
	c.Reason, c.Failed = strings.Repeat("r", desired.MaxReasonBytes)+"\xff", 0
	c.Failures[0] = desired.Failure{Key: long, Error: "\xff" + long, Since: time.UnixMilli(1_700_000_000_123).Add(456), Next: time.Unix(-1, 0)}
	c.Failures[1].Since = time.Date(20_000, 1, 1, 0, 0, 0, 0, time.UTC)
	c.Stages = desired.Stages{Waited: -1, Transferred: 1999, Applied: 2 * desired.MaxStage}
	b := c.Bounded()
	first := desired.Failure{Key: long[:len(long)-2], Error: ("\ufffd" + long)[:desired.MaxFailureBytes], Since: time.UnixMilli(1_700_000_000_123).UTC()}
	if len(b.Reason) != desired.MaxReasonBytes || len(b.Failures) != desired.MaxFailures || b.Failed != desired.MaxFailures+4 || b.More() != 4 {
		t.Errorf("bounded: a reason of %d bytes, %d failures of %d, %d more", len(b.Reason), len(b.Failures), b.Failed, b.More())
	}
	if b.Failures[0] != first || !b.Failures[1].Since.IsZero() {
		t.Errorf("bounded: %+v, want %+v", b.Failures[:2], first)
	}
	if want := (desired.Stages{Transferred: time.Microsecond, Applied: desired.MaxStage}); b.Stages != want {
		t.Errorf("bounded: %+v, want %+v", b.Stages, want)
	}
	if c.Failures[1].Since.IsZero() {
		t.Error("to be bounded has changed what was")
	}
	if !b.Equal(b.Bounded()) {
		t.Error("what is bounded changes by being bounded")
	}
	r := desired.Report{Applying: &c}.Bounded()
	if !r.Equal(desired.Report{Applying: &b}) || r.Applying == &c {
		t.Errorf("a report of it, bounded: %+v", r.Applying)
	}
}

// TestConvergenceEqual changes each field, wherever it is.
func TestConvergenceEqual(t *testing.T) {
	base := failing(2)
	if again := failing(2); !base.Equal(again) {
		t.Errorf("%+v is not equal to itself", base)
	}
	changed := 0
	var change func(name string, v reflect.Value, check func())
	change = func(name string, v reflect.Value, check func()) {
		was := reflect.New(v.Type()).Elem()
		was.Set(v)
		switch {
		case v.Type() == reflect.TypeFor[time.Time]():
			v.Set(reflect.ValueOf(time.UnixMilli(5)))
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				change(name+"."+v.Type().Field(i).Name, v.Field(i), check)
			}
			return
		case v.Kind() == reflect.Slice:
			change(name+"[0]", v.Index(0), check)
			v.Set(v.Slice(0, 1))
		case v.Kind() == reflect.Array:
			v.Index(9).SetUint(99)
		case v.Kind() == reflect.String:
			v.SetString("other")
		case v.CanInt():
			v.SetInt(99)
		default:
			v.SetUint(99)
		}
		check()
		changed++
		v.Set(was)
	}
	other := failing(2)
	v := reflect.ValueOf(&other).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		change(name, v.Field(i), func() {
			if base.Equal(other) || other.Equal(base) {
				t.Errorf("another %s is equal", name)
			}
		})
		other = failing(2)
	}
	if changed != 13+6+3 {
		t.Errorf("%d changes, want one for each field: is there a new one?", changed)
	}
	for _, c := range []struct {
		a, b desired.Report
		want bool
	}{
		{desired.Report{}, desired.Report{Applying: &desired.Convergence{}}, false},
		{desired.Report{Applying: &base}, desired.Report{Applying: &desired.Convergence{}}, false},
		{desired.Report{Applying: &base}, desired.Report{Applying: &other}, true},
	} {
		if c.a.Equal(c.b) != c.want || c.b.Equal(c.a) != c.want {
			t.Errorf("Equal(%+v, %+v) = %v, want %v", c.a.Applying, c.b.Applying, !c.want, c.want)
		}
	}
}

func TestConvergenceTelling(t *testing.T) {
	told := failing(1)
	with := func(change func(*desired.Convergence)) desired.Convergence {
		c := failing(1)
		change(&c)
		return c
	}
	for name, c := range map[string]struct {
		now  desired.Convergence
		want bool
	}{
		"nothing":  {told, false},
		"progress": {with(func(c *desired.Convergence) { c.Pending, c.Applied, c.Failures[0].Attempts = 1, desired.Digest{9}, 9 }), false},
		"state":    {with(func(c *desired.Convergence) { c.State = desired.Converged }), true},
		"failed":   {with(func(c *desired.Convergence) { c.Failed++ }), true},
		"guarded":  {with(func(c *desired.Convergence) { c.Guarded++ }), true},
		"desired":  {with(func(c *desired.Convergence) { c.Desired = desired.Digest{9} }), false},
	} {
		if got := c.now.Telling(&told); got != c.want {
			t.Errorf("%s changed: Telling = %v, want %v", name, got, c.want)
		}
	}
	then, now := desired.Convergence{State: desired.Converged}, desired.Convergence{State: desired.Converged, Desired: desired.Digest{1}}
	if !now.Telling(&then) {
		t.Error("that it has converged on something else is not telling")
	}
	if !(desired.Convergence{}).Telling(nil) {
		t.Error("the first word is not telling")
	}
}

func TestConvergenceJSON(t *testing.T) {
	want := failing(2)
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		`"desired":"0100000000`, `"state":"waiting"`, `"drift_found":5`, `"drift_corrected":4`,
		`"stages":{"waited_seconds":1.5,"transferred_seconds":0.00002,"applied_seconds":3600}`, `"since":"2023-11-14T22:13:20.123Z"`,
	} {
		if !strings.Contains(string(b), part) {
			t.Errorf("%s lacks %s", b, part)
		}
	}
	var got desired.Convergence
	if err := json.Unmarshal(b, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s reads as %+v, %v", b, got, err)
	}
	var odd desired.State
	if err := json.Unmarshal([]byte(`"hesitating"`), &odd); err != nil || odd.String() != "unknown" {
		t.Errorf("a state of another version is %v, %v", odd, err)
	}
	var none desired.Convergence
	if b, err = json.Marshal(none); err != nil || strings.Contains(string(b), "stages") || strings.Contains(string(b), "failures") {
		t.Errorf("what knows nothing is %s, %v", b, err)
	}
	if err := json.Unmarshal(b, &none); err != nil || !none.Equal(desired.Convergence{}) {
		t.Errorf("%s reads as %+v, %v", b, none, err)
	}
}
