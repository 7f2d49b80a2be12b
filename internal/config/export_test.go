package config

// Fields returns the fields that each object may have, as far as a text that is
// parsed has one.
func Fields(text []byte) map[string][]string {
	fields := map[string][]string{}
	seen := map[[2]string]bool{}
	r := &reader{path: "test", known: func(what, field string) {
		if !seen[[2]string{what, field}] {
			fields[what] = append(fields[what], field)
		}
		seen[[2]string{what, field}] = true
	}}
	r.config(r.parse(text), &Config{})
	return fields
}
