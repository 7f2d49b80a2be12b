package desired

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Report is what a host tells of itself.
type Report struct {
	// Agent is the version of its program.
	Agent string `json:"agent,omitempty"`
	// Problems says what the host doesn't follow; what it had stays in force. At
	// most MaxProblems; More counts others.
	Problems []Problem `json:"problems,omitempty"`
	More     uint32    `json:"more,omitempty"`
	// Applying is how far it is with making true what it mirrors; nil: it only
	// mirrors.
	Applying *Convergence `json:"applying,omitempty"`
}

// Problem says why a host doesn't follow the server.
type Problem struct {
	// Set is the set that it is about; empty: the host's list of sets.
	Set  Name   `json:"set,omitempty"`
	Text string `json:"text"`
	// Refused says that the host won't follow until an operator steps in.
	Refused bool `json:"refused,omitempty"`
}

// Bounded returns r within its bounds, its texts cut and of valid UTF-8.
func (r Report) Bounded() Report {
	r.Agent = Cut(r.Agent, MaxProblemBytes)
	if n := len(r.Problems); n > MaxProblems {
		r.More += uint32(n - MaxProblems)
		r.Problems = r.Problems[:MaxProblems]
	}
	r.Problems = slices.Clone(r.Problems)
	for i := range r.Problems {
		r.Problems[i].Text = Cut(r.Problems[i].Text, MaxProblemBytes)
	}
	if r.Applying != nil {
		applying := r.Applying.Bounded()
		r.Applying = &applying
	}
	return r
}

// Equal reports whether both say the same.
func (r Report) Equal(o Report) bool {
	return r.Agent == o.Agent && r.More == o.More && slices.Equal(r.Problems, o.Problems) &&
		(r.Applying == nil) == (o.Applying == nil) && (r.Applying == nil || r.Applying.Equal(*o.Applying))
}

// Cut returns text as valid UTF-8, of at most so many bytes.
func Cut(text string, most int) string {
	text = strings.ToValidUTF8(text, "\ufffd")
	if len(text) <= most {
		return text
	}
	end := most
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}
