package pattern

// mirror is what one agent holds: for each slot the revision that wrote it, 0 if
// none did. sum is the exclusive or of a number for each slot and revision, so that
// two mirrors with the same sum are the same, but for one chance in 2^64.
type mirror struct {
	history  *history
	versions []uint32 // by slot
	sum      uint64
}

// write writes changes of a revision, whatever was there.
func (m *mirror) write(changes []change, rev int) {
	for _, c := range changes {
		m.put(c.slot, uint32(rev))
	}
}

func (m *mirror) put(slot int32, version uint32) {
	m.sum ^= mark(slot, m.versions[slot]) ^ mark(slot, version)
	m.versions[slot] = version
}

func mark(slot int32, version uint32) uint64 {
	if version == 0 {
		return 0
	}
	return scramble(uint64(version), uint64(slot)+1)
}

// replace makes the mirror that of a revision.
func (m *mirror) replace(rev int) {
	from, exact := m.history.published[m.sum]
	if !exact || from > rev {
		clear(m.versions)
		m.sum, from = 0, 0
	}
	for ; from < rev; from++ {
		m.write(m.history.commits[from].changes, from+1)
	}
}

// equals reports whether the mirror is that of a revision, slot by slot.
func (m *mirror) equals(rev int) bool {
	want := mirror{history: m.history, versions: make([]uint32, len(m.versions))}
	want.replace(rev)
	for i, v := range want.versions {
		if m.versions[i] != v {
			return false
		}
	}
	return true
}
