package publish_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"espalier/internal/desired"
	"espalier/internal/publish"
)

// readAll returns the objects of an input by key, and checks their order and
// digests.
func readAll(t *testing.T, in *publish.Input) map[string]desired.Object {
	t.Helper()
	all := map[string]desired.Object{}
	var h desired.Hasher
	last := ""
	for c, err := range publish.Objects(in) {
		if err != nil {
			t.Fatal(err)
		}
		if string(c.Key) <= last {
			t.Fatalf("key %q after %q", c.Key, last)
		}
		if last = string(c.Key); c.Digest != h.Sum(c.Key, c.Envelope) {
			t.Fatalf("the digest of %q is wrong", c.Key)
		}
		o, err := c.Envelope.Object(c.Key)
		if err != nil {
			t.Fatal(err)
		}
		o.Value = bytes.Clone(o.Value)
		all[last] = o
	}
	if len(all) != in.Len() {
		t.Fatalf("%d objects, but Len() = %d", len(all), in.Len())
	}
	return all
}

func jsonl(t *testing.T, text string, o publish.ReadOptions) (*publish.Input, error) {
	t.Helper()
	o.TempDir = t.TempDir()
	in, err := publish.ReadJSONL(t.Context(), strings.NewReader(text), o)
	if err == nil {
		t.Cleanup(func() {
			if err := in.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return in, err
}

func TestJSONL(t *testing.T) {
	for name, v := range map[string]struct {
		text   string
		prefix string
		want   []desired.Object
	}{
		"nothing":      {},
		"blank lines":  {text: "\n  \n\t\r\n\n"},
		"a BOM":        {text: "\ufeff" + `{"key":"a","value":"x"}`, want: []desired.Object{{Key: "a", Value: []byte("x")}}},
		"one":          {text: `{"key":"a","value":"x"}`, want: []desired.Object{{Key: "a", Value: []byte("x")}}},
		"no value":     {text: `{"key":"a","value":""}`, want: []desired.Object{{Key: "a", Value: []byte{}}}},
		"white space":  {text: " { \"value\" :\t\"x\" , \"key\":\"a\" } \r\n", want: []desired.Object{{Key: "a", Value: []byte("x")}}},
		"escapes":      {text: `{"k\u0065y":"\u00e9\/b","value":"\ud83d\ude00\n\u0000"}`, want: []desired.Object{{Key: "é/b", Value: []byte("😀\n\x00")}}},
		"base64":       {text: `{"key":"a","value_base64":"AP8="}`, want: []desired.Object{{Key: "a", Value: []byte{0, 0xff}}}},
		"empty base64": {text: `{"key":"a","value_base64":""}`, want: []desired.Object{{Key: "a", Value: []byte{}}}},
		"a head": {
			text: `{"after":["z","y"],"key":"a","attributes":{"mode":"0644","a":""},"value":"x"}`,
			want: []desired.Object{{
				Key: "a", Value: []byte("x"), Attributes: map[string]string{"mode": "0644", "a": ""}, After: []string{"y", "z"},
			}},
		},
		"an empty head": {text: `{"key":"a","value":"x","attributes":{},"after":[]}`, want: []desired.Object{{Key: "a", Value: []byte("x")}}},
		"a prefix": {
			text: `{"key":"a","value":"x","after":["b"]}`, prefix: "site/",
			want: []desired.Object{{Key: "site/a", Value: []byte("x"), After: []string{"site/b"}}},
		},
		"any order": {
			text: "{\"key\":\"b\",\"value\":\"1\"}\n\n{\"key\":\"a\",\"value\":\"2\"}\n{\"key\":\"c\",\"value\":\"3\"}",
			want: []desired.Object{{Key: "a", Value: []byte("2")}, {Key: "b", Value: []byte("1")}, {Key: "c", Value: []byte("3")}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			in, err := jsonl(t, v.text, publish.ReadOptions{KeyPrefix: v.prefix})
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]desired.Object{}
			for _, o := range v.want {
				want[o.Key] = o
			}
			if got := readAll(t, in); !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// TestBadJSONL shows every message for input that is refused.
func TestBadJSONL(t *testing.T) {
	long := strings.Repeat("k", desired.MaxKeyBytes+1)
	huge := strings.Repeat("v", desired.MaxValueBytes+1)
	many := func(format string, n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, format, i)
		}
		return strings.TrimSuffix(b.String(), ",")
	}
	for _, v := range []struct{ text, prefix, want string }{
		{`{"key":"a"`, "", `line 1: invalid JSON: the line ends too early`},
		{`{"key":"a","value":"b`, "", `line 1: invalid JSON: the line ends too early`},
		{"{\"key\":\"a\",\n\"value\":\"b\"}", "", `line 1: invalid JSON: the line ends too early`},
		{"\n\ufeff{}", "", `line 2: invalid JSON: invalid character '\ufeff' at start of value, at byte 1 of the line`},
		{"\n\nnonsense\n", "", `line 3: invalid JSON: invalid character 'o' in literal null (expecting 'u'), at byte 2 of the line`},
		{`{"key" "a"}`, "", `line 1: invalid JSON: invalid character '"' after object name (expecting ':'), at byte 8 of the line`},
		{`{"key":"a","value":"b",}`, "", `line 1: invalid JSON: invalid character ',' at start of value, at byte 23 of the line`},
		{"{\"key\":\"a\tb\",\"value\":\"\"}", "", `line 1: invalid JSON: invalid character '\t' in string (expecting non-control character), at byte 10 of the line`},
		{"{\"key\":\"a\",\"value\":\"\xff\"}", "", `line 1: invalid JSON: invalid UTF-8, at byte 21 of the line`},
		{"{\"key\":\"\xff\",\"value\":\"\"}", "", `line 1: invalid JSON: invalid UTF-8, at byte 9 of the line`},
		{`{"key":"a","value":"\ud800"}`, "", `line 1: invalid JSON: invalid surrogate pair`},
		{`{"key":"a","value":"b"} {"key":"b","value":"c"}`, "", `line 1: invalid line: more than one JSON value`},
		{`{"key":"a","value":"b"}]`, "", `line 1: invalid JSON: invalid character ']' at start of value, at byte 24 of the line`},
		{`"a"`, "", `line 1: invalid line: want an object, found a string`},
		{`[1]`, "", `line 1: invalid line: want an object, found an array`},
		{`null`, "", `line 1: invalid line: want an object, found null`},
		{`{}`, "", `line 1: invalid object: it has no key`},
		{`{"value":"a"}`, "", `line 1: invalid object: it has no key`},
		{`{"key":"a"}`, "", `line 1: invalid object "a": it has neither value nor value_base64`},
		{`{"key":"a","value":"b","value_base64":"Yg=="}`, "", `line 1: invalid object: it has both value and value_base64`},
		{`{"key":"a","key":"b","value":""}`, "", `line 1: invalid JSON: "key" is there twice`},
		{`{"key":"a","value":"b","value":"c"}`, "", `line 1: invalid JSON: "value" is there twice`},
		{`{"key":"a","value":"","attributes":{"m":"1","m":"2"}}`, "", `line 1: invalid JSON: "m" is there twice`},
		{`{"key":"a","value":"","valeu":"c"}`, "", `line 1: invalid field "valeu": there are key, value, value_base64, attributes and after`},
		{`{"key":"a","value":"","Value":"c"}`, "", `line 1: invalid field "Value": there are key`},
		{`{"key":1,"value":""}`, "", `line 1: invalid key: want a string, found a number`},
		{`{"key":"a","value":null}`, "", `line 1: invalid value: want a string, found null`},
		{`{"key":"a","value":{"b":"c"}}`, "", `line 1: invalid value: want a string, found an object`},
		{`{"key":"a","value_base64":true}`, "", `line 1: invalid value_base64: want a string, found a truth value`},
		{`{"key":"a","value_base64":"A"}`, "", `line 1: invalid value_base64: illegal base64 data at input byte`},
		{`{"key":"a","value_base64":"_w=="}`, "", `line 1: invalid value_base64: illegal base64 data at input byte 0`},
		{`{"key":"a","value":"","attributes":[]}`, "", `line 1: invalid attributes: want an object, found an array`},
		{`{"key":"a","value":"","attributes":{"mode":420}}`, "", `line 1: invalid attribute: want a string, found a number`},
		{`{"key":"a","value":"","attributes":{"":"x"}}`, "", `line 1: object "a": invalid envelope: attribute "" is empty or out of order`},
		{`{"key":"a","value":"","attributes":{` + many(`"n%d":"",`, desired.MaxAttributes+1) + `}}`, "", `line 1: invalid attributes: more than the 64 that are allowed`},
		{`{"key":"a","value":"","attributes":{"n":"` + strings.Repeat("x", desired.MaxAttributeBytes+1) + `"}}`, "", `line 1: object "a": invalid envelope: attribute: 4097, at most 4096 are allowed`},
		{`{"key":"a","value":"","after":"b"}`, "", `line 1: invalid after: want an array, found a string`},
		{`{"key":"a","value":"","after":[{}]}`, "", `line 1: invalid key in after: want a string, found an object`},
		{`{"key":"a","value":"","after":[""]}`, "x", `line 1: invalid key in after: it is empty`},
		{`{"key":"a","value":"","after":["b","b"]}`, "", `line 1: object "a": invalid envelope: after names "b" twice or out of order`},
		{`{"key":"a","value":"","after":["a"]}`, "", `line 1: object "a": invalid envelope: the object comes after itself`},
		{`{"key":"a","value":"","after":[` + many(`"k%d",`, desired.MaxAfter+1) + `]}`, "", `line 1: invalid after: more than the 64 keys that are allowed`},
		{`{"key":"","value":""}`, "", `line 1: invalid key: it is empty`},
		{`{"key":"","value":""}`, "site", `line 1: invalid key: it is empty`},
		{`{"key":"a//b","value":""}`, "", `line 1: invalid key "a//b": a segment between slashes is empty`},
		{`{"key":"b","value":""}`, "a//", `line 1: invalid key "a//b": a segment between slashes is empty`},
		{`{"key":"a/../b","value":""}`, "", `line 1: invalid key "a/../b": a segment is ".."`},
		{`{"key":"a\u0007","value":""}`, "", `line 1: invalid key "a\a": control character at byte 1`},
		{`{"key":"` + long + `","value":""}`, "", `line 1: invalid key "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk"…: 1025 bytes, at most 1024 are allowed`},
		{`{"key":"` + long[1:] + `","value":""}`, "p", `1025 bytes, at most 1024 are allowed`},
		{`{"key":"a","value":"` + huge + `"}`, "", `line 1: invalid value: 4194305 bytes or more, at most 4194304 are allowed`},
		{`{"key":"a","value":"` + huge[2:] + `\n\n\n"}`, "", `line 1: invalid value of "a": 4194306 bytes, at most 4194304 are allowed`},
		{`{"key":"a","value_base64":"` + base64.StdEncoding.EncodeToString([]byte(huge)) + `"}`, "", `line 1: invalid value of "a": 4194305 bytes, at most 4194304 are allowed`},
		{`{"key":"a","value_base64":"` + base64.StdEncoding.EncodeToString([]byte(huge+huge)) + `"}`, "", `line 1: invalid value_base64: it stands for more than the 4194304 bytes that are allowed`},
		{"{\"key\":\"a\",\"value\":\"\"}\n{\"key\":\"b\",\"value\":\"\"}\n{\"key\":\"a\",\"value\":\"\"}\n", "", `key "a" is there twice: in line 1 and in line 3`},
		{"{\"key\":\"a\",\"value\":\"\"}\n" + strings.Repeat(" ", publish.MaxLineBytes) + "x\n", "", fmt.Sprintf(`line 2: invalid line: it has more than %d bytes`, publish.MaxLineBytes)},
	} {
		name := v.text[:min(len(v.text), 60)]
		_, err := jsonl(t, v.text, publish.ReadOptions{KeyPrefix: v.prefix})
		if err == nil || !strings.Contains(err.Error(), v.want) {
			t.Errorf("%s: %v, want %q", name, err, v.want)
			continue
		}
		if !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("%s: %v does not match desired.ErrInvalid", name, err)
		}
	}
}

// TestFirstBadLine shows that the error is always that of the first bad line,
// however the parsers run.
func TestFirstBadLine(t *testing.T) {
	var b strings.Builder
	for i := range 30_000 {
		fmt.Fprintf(&b, "{\"key\":\"%08d\",\"value\":\"%0100d\"}\n", i, i)
		if i == 17_000 || i > 17_000 && i%1000 == 0 {
			b.WriteString("bad\n")
		}
	}
	for range 5 {
		if _, err := jsonl(t, b.String(), publish.ReadOptions{}); err == nil || !strings.HasPrefix(err.Error(), "line 17002: ") {
			t.Fatalf("got %v, want an error in line 17002", err)
		}
	}
}

// TestJSONLOracle holds the reader against encoding/json, through readers that
// cut the lines anywhere.
func TestJSONLOracle(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 5))
		want := map[string]desired.Object{}
		var text bytes.Buffer
		for range r.IntN(1500) {
			o := randomObject(r)
			if _, ok := want[o.Key]; !ok {
				want[o.Key] = o
				writeJSONL(t, r, &text, o)
			}
		}
		size := text.Len()
		from := []func(io.Reader) io.Reader{
			func(r io.Reader) io.Reader { return r }, iotest.HalfReader, iotest.DataErrReader,
		}[r.IntN(3)](&text)
		last := uint64(0)
		o := publish.ReadOptions{TempDir: t.TempDir(), Progress: func(phase publish.Phase, done, _ uint64) {
			if phase != publish.PhaseRead || done < last {
				t.Errorf("progress of %s goes from %d to %d", phase, last, done)
			}
			last = done
		}}
		in, err := publish.ReadJSONL(t.Context(), from, o)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got := readAll(t, in); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: the objects differ", seed)
		}
		if last != uint64(size) {
			t.Errorf("seed %d: progress ends at %d bytes of %d", seed, last, size)
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	}
}

func randomObject(r *rand.Rand) desired.Object {
	o := desired.Object{Key: fmt.Sprintf("key/%c/%d", 'À'+rune(r.IntN(300)), r.IntN(1_000_000)), Value: make([]byte, r.IntN(80))}
	if r.IntN(1000) == 0 {
		o.Value = make([]byte, r.IntN(1<<20))
	}
	for i := range o.Value[:min(len(o.Value), 100)] {
		o.Value[i] = byte(r.UintN(128))
	}
	if len(o.Value) > 0 && r.IntN(10) == 0 {
		o.Value[r.IntN(len(o.Value))] = byte(r.Uint32())
	}
	for range r.IntN(10) - 7 {
		if o.Attributes == nil {
			o.Attributes = map[string]string{}
		}
		o.Attributes[fmt.Sprintf("n%d\"", r.IntN(9))] = strings.Repeat("é\n", r.IntN(9))
	}
	if r.IntN(10) == 0 {
		o.After = []string{"after/1", "after/2\\"}
	}
	return o
}

// writeJSONL writes an object as a line, with fields in any order.
func writeJSONL(t *testing.T, r *rand.Rand, to *bytes.Buffer, o desired.Object) {
	t.Helper()
	fields := map[string]any{"key": o.Key}
	if text := string(o.Value); strings.ToValidUTF8(text, "") == text {
		fields["value"] = text
	} else {
		fields["value_base64"] = o.Value
	}
	if o.Attributes != nil {
		fields["attributes"] = o.Attributes
	}
	if o.After != nil {
		fields["after"] = o.After
	}
	to.WriteString("{")
	first := true
	for name, v := range fields {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if !first {
			to.WriteString([]string{",", " ,\t"}[r.IntN(2)])
		}
		first = false
		fmt.Fprintf(to, "%q:%s", name, b)
	}
	to.WriteString([]string{"}\n", "}\n\n", "} \r\n"}[r.IntN(3)])
}

// TestLargestBase64 reads the largest value that is allowed, encoded, also in
// lines as base64(1) breaks them.
func TestLargestBase64(t *testing.T) {
	value := bytes.Repeat([]byte{0xff}, desired.MaxValueBytes)
	encoded := base64.StdEncoding.EncodeToString(value)
	broken := strings.Join(slices.Collect(func(yield func(string) bool) {
		for part := range slices.Chunk([]byte(encoded), 76) {
			if !yield(string(part)) {
				return
			}
		}
	}), `\r\n`)
	in, err := jsonl(t, fmt.Sprintf("{\"key\":\"a\",\"value_base64\":%q}\n{\"key\":\"b\",\"value_base64\":\"%s\"}", encoded, broken), publish.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for key, o := range readAll(t, in) {
		if !bytes.Equal(o.Value, value) {
			t.Errorf("%s has a value of %d bytes, want %d of 0xff", key, len(o.Value), len(value))
		}
	}
}

// TestLargestLine reads the largest value that is allowed, in the longest way to
// write it, and is frugal about it.
func TestLargestLine(t *testing.T) {
	const lines = 2
	var all []io.Reader
	for i := range lines {
		all = append(all, strings.NewReader(fmt.Sprintf("{\"key\":\"%d\",\"value\":\"", lines-i)),
			io.LimitReader(&escapes{}, 6*desired.MaxValueBytes), strings.NewReader("\"}\n"))
	}
	peak := watchHeap(t)
	in, err := publish.ReadJSONL(t.Context(), io.MultiReader(all...), publish.ReadOptions{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	grown := peak()
	if in.Len() != lines || in.Bytes() != lines*(desired.MaxValueBytes+2) {
		t.Errorf("%d objects of %d bytes", in.Len(), in.Bytes())
	}
	if t.Logf("%d MiB of heap", grown>>20); grown > 128<<20 {
		t.Errorf("the heap grew by %d MiB, want at most 128", grown>>20)
	}
}

var manyEscapes = strings.Repeat(`\u0061`, 10_000)

// escapes is \u0061, over and over.
type escapes struct{ at int }

func (e *escapes) Read(b []byte) (int, error) {
	n := copy(b, manyEscapes[e.at:])
	e.at = (e.at + n) % 6
	return n, nil
}

// watchHeap looks at the heap until the function that it returns is called, which
// returns by how much it grew at most.
func watchHeap(t *testing.T) (peak func() uint64) {
	t.Helper()
	runtime.GC()
	before, most := heap(), uint64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond):
				most = max(most, heap())
			}
		}
	}()
	return func() uint64 {
		close(stop)
		<-stopped
		return most - min(before, most)
	}
}

func heap() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func TestReadFails(t *testing.T) {
	broken := fmt.Errorf("a broken archive: %w", io.ErrUnexpectedEOF)
	for _, text := range []string{"", "{\"key\":\"a\",\"value\":\"\"}\n", "{\"key\":\"a\",\"value\":\"\"}\n{\"key\":", "{\"key\":"} {
		r := io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken))
		_, err := publish.ReadJSONL(t.Context(), r, publish.ReadOptions{})
		if !errors.Is(err, broken) || err.Error() != "read the input: a broken archive: unexpected EOF" {
			t.Errorf("after %q: %v, want %v", text, err, broken)
		}
	}
}

// TestPipe shows that an error, or the end of the context, does not wait for a
// pipe that stays open.
func TestPipe(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	go w.Write(bytes.Repeat([]byte("bad\n"), 100_000))
	if _, err := publish.ReadJSONL(t.Context(), r, publish.ReadOptions{}); err == nil || !strings.HasPrefix(err.Error(), "line 1: ") {
		t.Errorf("got %v, want an error in line 1", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := publish.ReadJSONL(ctx, r, publish.ReadOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "objects.jsonl")
	if err := os.WriteFile(file, []byte(`{"key":"a","value":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	o := publish.ReadOptions{TempDir: t.TempDir()}
	for path, stdin := range map[string]string{file: "", "-": `{"key":"a","value":"x"}`} {
		in, err := publish.Read(t.Context(), path, strings.NewReader(stdin), o)
		if err != nil || in.Len() != 1 {
			t.Fatalf("Read(%s) = %v", path, err)
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	}
	for path, want := range map[string]string{
		"-":                           "standard input: line 1: invalid",
		filepath.Join(dir, "missing"): filepath.Join(dir, "missing") + ": no such file or directory",
	} {
		if _, err := publish.Read(t.Context(), path, strings.NewReader("bad"), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Read(%s) = %v, want %q", path, err, want)
		}
	}
	if err := os.WriteFile(file, []byte("\nbad"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := publish.Read(t.Context(), file, nil, o); err == nil || !strings.HasPrefix(err.Error(), file+": line 2: invalid JSON: ") {
		t.Errorf("Read(%s) = %v", file, err)
	}
	o.TempDir = filepath.Join(dir, "missing")
	if err := os.WriteFile(file, jsonlOf(10_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := publish.Read(t.Context(), file, nil, o); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a folder for temporary files: %v", err)
	}
}

// jsonlOf returns n lines of some 150 bytes, in order.
func jsonlOf(n int) []byte {
	var b bytes.Buffer
	r := rand.New(rand.NewPCG(1, 1))
	for i := range n {
		fmt.Fprintf(&b, `{"key":"service-%03d/instance-%04d","value":"%016x%016x%016x%016x%016x%020d"}`+"\n",
			i/1000, i%1000, r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64(), r.Uint64())
	}
	return b.Bytes()
}

// FuzzLine parses anything: it is an error, a blank line, or a valid object that
// encoding/json reads the same way.
func FuzzLine(f *testing.F) {
	for _, seed := range []string{
		`{"key":"a","value":"x"}`, `{"key":"a","value_base64":"AP8="}`, ` {"value":"\ud83d\ude00","after":["b"],"attributes":{"m":"1"},"key":"\u00e9"} `,
		``, `{}`, `{"key":"a","key":"b","value":""}`, `{"k\u0065y":"a","value":"\n"}`, `[`, `{"key":"a","value":"` + "\xff" + `"}`,
	} {
		f.Add("", []byte(seed))
		f.Add("p/", []byte(seed))
	}
	f.Fuzz(func(t *testing.T, prefix string, line []byte) {
		c, ok, err := publish.ParseLine(prefix, bytes.Clone(line))
		if err != nil {
			if !errors.Is(err, desired.ErrInvalid) || ok {
				t.Fatalf("%v does not match desired.ErrInvalid", err)
			}
			return
		}
		if !ok {
			if len(bytes.TrimSpace(line)) > 0 {
				t.Fatalf("%q passes for blank", line)
			}
			return
		}
		o, err := c.Envelope.Object(c.Key)
		if err == nil {
			err = desired.CheckKey(c.Key)
		}
		if err != nil {
			t.Fatal(err)
		}
		var want struct {
			Key        string            `json:"key"`
			Value      string            `json:"value"`
			Base64     []byte            `json:"value_base64"`
			Attributes map[string]string `json:"attributes"`
			After      []string          `json:"after"`
		}
		if err := json.Unmarshal(line, &want); err != nil {
			t.Fatalf("encoding/json: %v", err)
		}
		if o.Key != prefix+want.Key || string(o.Value) != want.Value+string(want.Base64) ||
			len(o.Attributes) != len(want.Attributes) || len(o.After) != len(want.After) {
			t.Fatalf("%q gives %v, want %v", line, o, want)
		}
	})
}

// Reads a million lines of some 150 bytes into a spool.
func BenchmarkReadJSONL(b *testing.B) {
	text := jsonlOf(1_000_000)
	for b.Loop() {
		in, err := publish.ReadJSONL(b.Context(), bytes.NewReader(text), publish.ReadOptions{TempDir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		if err := in.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(text)))
	b.ReportMetric(float64(b.N)*1e6/b.Elapsed().Seconds(), "lines/s")
}
