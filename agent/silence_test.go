package agent

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"espalier/internal/wire"
)

// TestSilenceIsTheServers: while the agent works on what came, the server need
// not say anything.
func TestSilenceIsTheServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		call, s := withSilence(t.Context(), CallTimeout)
		defer s.stop()
		s.listen()
		s.heard()
		time.Sleep(3 * CallTimeout)
		if err := call.Err(); err != nil {
			t.Fatalf("the call ended while the agent worked: %v", s.explain(err))
		}
		s.listen()
		time.Sleep(CallTimeout)
		<-call.Done()
		if err := s.explain(call.Err()); !errors.Is(err, wire.ErrUnreachable) {
			t.Errorf("explain = %v, want %v", err, wire.ErrUnreachable)
		}
	})
}
