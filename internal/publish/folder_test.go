package publish_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"espalier/internal/desired"
	"espalier/internal/publish"
)

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
}

func folder(t *testing.T, dir, prefix string) (*publish.Input, error) {
	t.Helper()
	in, err := publish.Read(t.Context(), dir, nil, publish.ReadOptions{KeyPrefix: prefix, TempDir: t.TempDir()})
	if err == nil {
		t.Cleanup(func() {
			if err := in.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return in, err
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "index.html"), "<html>", 0o644)
	write(t, filepath.Join(dir, "a/b/deep"), "", 0o755)
	write(t, filepath.Join(dir, "a.txt"), "before a/ in the order of keys", 0o600)
	write(t, filepath.Join(dir, "a/é 1"), "x", 0o444)
	write(t, filepath.Join(dir, ".hidden"), "h", 0o4640)
	if err := os.Mkdir(filepath.Join(dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"link": "a/b/deep", "a/out": "/etc/passwd", "dangling": "../../nowhere", "dir": "a"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	file := func(key, content, mode string) desired.Object {
		return desired.Object{Key: key, Value: []byte(content), Attributes: map[string]string{"mode": mode}}
	}
	link := func(key, target string) desired.Object {
		return desired.Object{Key: key, Value: []byte{}, Attributes: map[string]string{"symlink": target}}
	}
	want := map[string]desired.Object{}
	for _, o := range []desired.Object{
		file("site/index.html", "<html>", "0644"), file("site/a/b/deep", "", "0755"), file("site/a/é 1", "x", "0444"),
		file("site/a.txt", "before a/ in the order of keys", "0600"), file("site/.hidden", "h", "0640"),
		link("site/link", "a/b/deep"), link("site/a/out", "/etc/passwd"), link("site/dangling", "../../nowhere"), link("site/dir", "a"),
	} {
		want[o.Key] = o
	}
	in, err := folder(t, dir, "site/")
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, in); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	link2 := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link2); err != nil {
		t.Fatal(err)
	}
	if in, err := folder(t, link2, ""); err != nil || in.Len() != len(want) {
		t.Errorf("through a symbolic link to the folder itself: %v", err)
	}
}

func TestBadFolder(t *testing.T) {
	for name, v := range map[string]struct {
		make func(dir string) error
		want string
	}{
		"a name that is not UTF-8": {
			func(dir string) error { return os.WriteFile(filepath.Join(dir, "sub", "\xff"), nil, 0o600) },
			`: "sub/\xff": invalid key "sub/\xff": not UTF-8 at byte 4`,
		},
		"a control character": {
			func(dir string) error { return os.WriteFile(filepath.Join(dir, "sub", "a\nb"), nil, 0o600) },
			`: "sub/a\nb": invalid key "sub/a\nb": control character at byte 5`,
		},
		"a file too large": {
			func(dir string) error {
				path := filepath.Join(dir, "sub", "large")
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					return err
				}
				return os.Truncate(path, desired.MaxValueBytes+1)
			},
			`: "sub/large": invalid file: 4194305 bytes, at most 4194304 are allowed`,
		},
		"a named pipe": {
			func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "sub", "pipe"), 0o600) },
			`: "sub/pipe": invalid file: it is a named pipe; only files, folders and symbolic links can be published`,
		},
		"a socket": {
			func(dir string) error {
				l, err := net.Listen("unix", filepath.Join(dir, "sub", "s"))
				if err == nil {
					t.Cleanup(func() { _ = l.Close() }) // it is just there
				}
				return err
			},
			`: "sub/s": invalid file: it is a socket`,
		},
		"a target that is not UTF-8": {
			func(dir string) error { return os.Symlink("\xff", filepath.Join(dir, "sub", "link")) },
			`: "sub/link": invalid symbolic link: its target "\xff" is not UTF-8`,
		},
		"a path too long": {
			func(dir string) error {
				long := filepath.Join(dir, "sub", strings.Repeat(strings.Repeat("d", 200)+"/", 5))
				if err := os.MkdirAll(long, 0o700); err != nil {
					return err
				}
				return os.WriteFile(filepath.Join(long, strings.Repeat("f", 100)), nil, 0o600)
			},
			`bytes, at most 1024 are allowed`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "") //nolint:usetesting // a socket's path has to be short
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			write(t, filepath.Join(dir, "sub/fine"), "x", 0o600)
			if err := v.make(dir); err != nil {
				t.Skip(err)
			}
			_, err = folder(t, dir, "")
			if err == nil || !strings.Contains(err.Error(), v.want) || !strings.HasPrefix(err.Error(), dir) {
				t.Fatalf("got %v, want %q", err, v.want)
			}
			if !errors.Is(err, desired.ErrInvalid) {
				t.Errorf("%v does not match desired.ErrInvalid", err)
			}
		})
	}
}

// TestOddFileNames publishes names that mean something elsewhere: here they are
// keys as they stand. A link is not followed, wherever it leads.
func TestOddFileNames(t *testing.T) {
	outside := t.TempDir()
	write(t, filepath.Join(outside, "secret"), "not to be read", 0o600)
	dir := t.TempDir()
	want := map[string]desired.Object{}
	for _, name := range []string{`a\b`, `..\..\b`, "...", "..a", "a..", "-rf", "~", "$HOME", "*", " ", "%2e%2e", "C:", "．．", "nul", "d/.../x", "d/-/x"} {
		write(t, filepath.Join(dir, name), "x", 0o600)
		want["p/"+name] = desired.Object{Key: "p/" + name, Value: []byte("x"), Attributes: map[string]string{"mode": "0600"}}
	}
	for name, target := range map[string]string{"abs": outside, "up": "..", "here": ".", "root": "/", "file": filepath.Join(outside, "secret")} {
		if err := os.Symlink(target, filepath.Join(dir, "d", name)); err != nil {
			t.Fatal(err)
		}
		key := "p/d/" + name
		want[key] = desired.Object{Key: key, Value: []byte{}, Attributes: map[string]string{"symlink": target}}
	}
	in, err := folder(t, dir, "p/")
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, in); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, prefix := range []string{"/", "../", "./", "a//", "a/../", "a/./", "/a/", "a\x00/", "a\n", "\xff/"} {
		if _, err := folder(t, dir, prefix); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("with the prefix %q: %v, want %v", prefix, err, desired.ErrInvalid)
		}
	}
}

func TestUnreadableFile(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "sub/secret"), "x", 0)
	_, err := folder(t, dir, "")
	if want := dir + `: "sub/secret": permission denied`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestLargeFolder reads a folder with more entries than are sorted at once.
func TestLargeFolder(t *testing.T) {
	dir := t.TempDir()
	const files = 4500
	for i := range files {
		if err := os.Symlink("target", filepath.Join(dir, strings.Repeat("x", i%7)+strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	in, err := folder(t, dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, in); len(got) != files {
		t.Errorf("%d objects, want %d", len(got), files)
	}
}

// TestChangingFile reads a file that is written to all the time: what is read is
// what it was at one moment, or an error says why not.
func TestChangingFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	stop := make(chan struct{})
	var writing sync.WaitGroup
	write(t, path, "", 0o600)
	writing.Go(func() {
		for i := 0; ; i++ {
			c := byte('a' + i%26)
			select {
			case <-stop:
				return
			default:
			}
			if err := os.WriteFile(path+".new", []byte(strings.Repeat(string(c), 1<<16+3*int(c))), 0o600); err != nil {
				t.Error(err)
				return
			}
			content, err := os.ReadFile(path + ".new")
			if err == nil {
				err = os.WriteFile(path, content, 0o600) // in place: torn to those who look
			}
			if err != nil {
				t.Error(err)
				return
			}
			if err := os.Remove(path + ".new"); err != nil {
				t.Error(err)
			}
		}
	})
	defer writing.Wait()
	defer close(stop)
	read := 0
	for range 100 {
		in, err := publish.ReadFolder(t.Context(), dir, publish.ReadOptions{TempDir: t.TempDir()})
		if err != nil {
			if !strings.Contains(err.Error(), "it changes while it is read") && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			continue
		}
		for key, o := range readAll(t, in) {
			if len(o.Value) > 0 && strings.Trim(string(o.Value), string(o.Value[0])) != "" {
				t.Fatalf("%s is torn", key)
			}
			read++
		}
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d files were read", read)
}
