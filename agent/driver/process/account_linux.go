package process

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
)

// person is as whom a copy runs.
type person struct {
	as         *account // nil: as whom the agent does
	name, home string   // empty: not known
}

// lookUp finds the person that a spec names.
func lookUp(text string) (person, error) {
	if text == "" {
		u, err := user.LookupId(strconv.Itoa(os.Getuid()))
		if err != nil {
			return person{home: "/"}, nil // nobody has to be listed
		}
		return person{name: u.Username, home: u.HomeDir}, nil
	}
	name, group, grouped := strings.Cut(text, ":")
	p := person{as: &account{}, home: "/"}
	u, err := userByName(name)
	switch {
	case err == nil:
		p.name, p.home = u.Username, u.HomeDir
		err = p.as.be(u)
	case grouped: // a number will do
		p.as.UID, err = number(name)
	}
	if err == nil && grouped {
		p.as.GID, err = groupByName(group)
		p.as.Groups = nil
	}
	if err != nil {
		return person{}, fmt.Errorf("user %q is not known on this host, or its group isn't (%w): name one that is, or both by their numbers, as 1000:1000", clip(text, 100), err)
	}
	if self := os.Geteuid(); self != 0 {
		if int(p.as.UID) != self {
			return person{}, fmt.Errorf("user %q: this agent runs as user %d, and only root can start programs as somebody else", clip(text, 100), self)
		}
		p.as = nil
	}
	return p, nil
}

func userByName(name string) (*user.User, error) {
	u, err := user.Lookup(name)
	if err != nil {
		if _, e := number(name); e == nil {
			return user.LookupId(name)
		}
	}
	return u, err
}

// be takes on a user's numbers.
func (a *account) be(u *user.User) error {
	groups, err := u.GroupIds()
	if err != nil {
		return err
	}
	var e1, e2 error
	a.UID, e1 = number(u.Uid)
	a.GID, e2 = number(u.Gid)
	for _, text := range groups {
		g, err := number(text)
		if err != nil {
			return err
		}
		a.Groups = append(a.Groups, g)
	}
	return errors.Join(e1, e2)
}

func groupByName(name string) (uint32, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return number(name)
	}
	return number(g.Gid)
}

func number(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err
}

// environment returns that of a copy. What is written later wins.
func environment(own map[string]string, who person, ours map[string]string) []string {
	env := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": who.home,
	}
	if who.name != "" {
		env["USER"], env["LOGNAME"] = who.name, who.name
	}
	maps.Copy(env, own)
	maps.Copy(env, ours)
	var list []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}
