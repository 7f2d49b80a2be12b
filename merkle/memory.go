package merkle

import (
	"bytes"
	"iter"
	"slices"
)

// Memory is a tree in memory, for tests and for sets whose objects lie
// elsewhere: it holds the rows of all levels or, without level 0, those above.
// The zero Memory holds no tree.
type Memory struct {
	levels [MaxLevel + 1][]Row
}

// Append adds a row behind the others of its level; it is what a Builder emits
// to.
func (m *Memory) Append(level int, row Row) error {
	m.levels[level] = append(m.levels[level], row)
	return nil
}

// Apply applies changes to objects, and the rows that Update made of them. It
// keeps their keys.
func (m *Memory) Apply(changes []Change, u Updated) {
	objects := make([]RowChange, len(changes))
	for i := range changes {
		objects[i] = changes[i].row()
	}
	m.levels[0] = overlay(m.levels[0], objects)
	for rows := u.Rows; len(rows) > 0; {
		level, n := rows[0].Level, 1
		for n < len(rows) && rows[n].Level == level {
			n++
		}
		m.levels[level] = overlay(m.levels[level], rows[:n])
		rows = rows[n:]
	}
}

// overlay returns rows as changes leave them; both ascend.
func overlay(rows []Row, changes []RowChange) []Row {
	result := make([]Row, 0, len(rows)+len(changes))
	for _, c := range changes {
		i, found := search(rows, c.Key)
		result = append(result, rows[:i]...)
		if rows = rows[i:]; found {
			rows = rows[1:]
		}
		if !c.Gone {
			result = append(result, c.Row)
		}
	}
	return append(result, rows...)
}

func search(rows []Row, key []byte) (int, bool) {
	return slices.BinarySearchFunc(rows, key, func(r Row, key []byte) int { return bytes.Compare(r.Key, key) })
}

// Height implements Reader.
func (m *Memory) Height() (int, error) {
	for level := MaxLevel; level > 0; level-- {
		if len(m.levels[level]) > 0 {
			return level, nil
		}
	}
	return 0, nil
}

// Before implements Reader.
func (m *Memory) Before(level int, key []byte) ([]byte, bool, error) {
	i, _ := search(m.levels[level], key)
	if i == 0 {
		return nil, false, nil
	}
	return m.levels[level][i-1].Key, true, nil
}

// Rows implements Reader.
func (m *Memory) Rows(level int, from, until []byte) iter.Seq2[Row, error] {
	rows := m.levels[level]
	if until != nil {
		i, _ := search(rows, until)
		rows = rows[:i]
	}
	i, _ := search(rows, from)
	return func(yield func(Row, error) bool) {
		for _, row := range rows[i:] {
			if !yield(row, nil) {
				return
			}
		}
	}
}
