package spool_test

import (
	"bytes"
	"errors"
	"testing"

	"espalier/internal/desired"
	"espalier/internal/spool"
)

// FuzzRecords decodes anything: it is an error, or changes within the bounds
// that encode to a sequence of records which decodes to the same.
func FuzzRecords(f *testing.F) {
	for _, seed := range []string{
		"", "\x00\x00\x00\x00", "\x00\x03\x00key\x07", "\x02\x03\x00key\x01\x05\x00text", "\x02\x01\x00k\x01\xff\xff\xff\xff\x0f",
		"\x06\x03\x00key\x01\x80\x80\x01\x80\x80\x02sum!", "\x04\x01\x00k\x01\x01\x00", "\x01\x01\x00k\x02short", "\x00\xff\xffkey",
		"\x03\x01\x00k\x0200000000000000000000000000000000\x01\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		changes, encoded, err := spool.Roundtrip(b)
		if err != nil {
			if !errors.Is(err, spool.ErrDamaged) {
				t.Fatalf("%v does not match ErrDamaged", err)
			}
			return
		}
		for _, c := range changes {
			if len(c.Key) > desired.MaxKeyBytes || len(c.Envelope) > desired.MaxEnvelopeBytes {
				t.Fatalf("a key of %d bytes, an envelope of %d", len(c.Key), len(c.Envelope))
			}
		}
		again, reencoded, err := spool.Roundtrip(encoded)
		if err != nil || len(again) != len(changes) || !bytes.Equal(encoded, reencoded) {
			t.Fatalf("%q encodes to %q, which decodes to %d changes, %v, want %d", b, encoded, len(again), err, len(changes))
		}
	})
}

func FuzzBlock(f *testing.F) {
	f.Add(spool.SealedBlock([]byte("records")))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		records, err := spool.OpenBlock(b)
		if err != nil {
			if !errors.Is(err, spool.ErrDamaged) {
				t.Fatalf("%v does not match ErrDamaged", err)
			}
			return
		}
		if sealed := spool.SealedBlock(records); !bytes.HasPrefix(b, sealed) {
			t.Fatalf("%q opens to %q, which seals to %q", b, records, sealed)
		}
	})
}
