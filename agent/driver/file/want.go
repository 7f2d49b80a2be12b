//go:build linux

package file

import (
	"errors"
	"fmt"
	"math"
	"os/user"
	"strconv"
	"strings"

	"espalier/internal/desired"
)

// want is what an object shall be on the disk.
type want struct {
	kind   kind
	mode   uint32 // permission bits; of a regular file
	uid    uint32
	gid    uint32
	group  bool // gid is wanted; else any is right
	value  []byte
	target string // of a symbolic link
}

// defaultMode is that of a file that has no such attribute.
const defaultMode = 0o644

// owners resolves names of users and groups, each once: a call may ask a
// directory over the network.
type owners struct {
	self  uint32 // who the agent runs as
	known map[string]owner
}

type owner struct {
	uid, gid uint32
	err      error
}

// want returns what o shall be.
func (w *owners) want(o *desired.Object) (want, error) {
	res := want{kind: regular, mode: defaultMode, uid: w.self, value: o.Value}
	if text, ok := o.Attributes[desired.OwnerAttribute]; ok {
		own := w.resolve(text)
		if own.err != nil {
			return want{}, own.err
		}
		res.uid, res.gid, res.group = own.uid, own.gid, true
	}
	if target, ok := o.Attributes[desired.SymlinkAttribute]; ok {
		return res.link(o, target)
	}
	if text, ok := o.Attributes[desired.ModeAttribute]; ok {
		mode, err := parseMode(text)
		if err != nil {
			return want{}, err
		}
		res.mode = mode
	}
	return res, nil
}

func (w want) link(o *desired.Object, target string) (want, error) {
	switch {
	case len(o.Value) > 0:
		return want{}, fmt.Errorf("%w symbolic link: it has a value of %d bytes; leave it empty, the target is the attribute", desired.ErrInvalid, len(o.Value))
	case target == "" || len(target) > maxTargetBytes:
		return want{}, fmt.Errorf("%w target of a symbolic link: %d bytes, 1 to %d are allowed", desired.ErrInvalid, len(target), maxTargetBytes)
	case strings.IndexByte(target, 0) >= 0:
		return want{}, fmt.Errorf("%w target of a symbolic link: %q holds a zero byte", desired.ErrInvalid, target)
	}
	w.kind, w.mode, w.value, w.target = symlink, 0, nil, target
	return w, nil
}

// parseMode returns permission bits. Those beyond, which make a program run as
// its owner, are refused: who may write to a set would be root on its hosts.
func parseMode(text string) (uint32, error) {
	mode, err := strconv.ParseUint(text, 8, 32)
	switch {
	case err != nil || mode > 0o7777:
		return 0, fmt.Errorf(`%w mode %.32q: want octal permission bits, as "0644"`, desired.ErrInvalid, text)
	case mode > 0o777:
		return 0, fmt.Errorf(`%w mode %q: setuid, setgid and sticky bits are not set by this driver; want permission bits alone, as "0755"`, desired.ErrInvalid, text)
	}
	return uint32(mode), nil
}

func (w *owners) resolve(text string) owner {
	if own, ok := w.known[text]; ok {
		return own
	}
	own := lookUpOwner(text)
	if own.err == nil && own.uid != w.self && w.self != 0 {
		own.err = fmt.Errorf("owner %q: only root can give files to others, and the agent runs as user %d; run it as root, or drop the attribute", text, w.self)
	}
	if w.known == nil {
		w.known = map[string]owner{}
	}
	w.known[text] = own
	return own
}

func lookUpOwner(text string) owner {
	name, group, ok := strings.Cut(text, ":")
	if !ok || name == "" || group == "" {
		return owner{err: fmt.Errorf(`%w owner %.64q: want "user:group", names or numbers`, desired.ErrInvalid, text)}
	}
	uid, err := lookUpID(name, func() (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
	if err != nil {
		return owner{err: fmt.Errorf("owner %q: user %q: %w; create it on this host", text, name, err)}
	}
	gid, err := lookUpID(group, func() (string, error) {
		g, err := user.LookupGroup(group)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
	if err != nil {
		return owner{err: fmt.Errorf("owner %q: group %q: %w; create it on this host", text, group, err)}
	}
	return owner{uid: uid, gid: gid}
}

// lookUpID returns the number that text is, or that the system has for it.
func lookUpID(text string, look func() (string, error)) (uint32, error) {
	if strings.Trim(text, "0123456789") != "" {
		found, err := look()
		if err != nil {
			return 0, errors.New("unknown")
		}
		text = found
	}
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil || id == math.MaxUint32 {
		return 0, fmt.Errorf("%w number %.32q", desired.ErrInvalid, text)
	}
	return uint32(id), nil
}
