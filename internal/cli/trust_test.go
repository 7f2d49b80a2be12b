package cli

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"espalier/internal/pki"
)

// TestKeepAdmin: a server that runs for longer than its admin's certificate
// lives doesn't lock its own machine out.
func TestKeepAdmin(t *testing.T) {
	data := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var flags trustFlags
		_, admin, err := flags.sign(data, true)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- admin.keep(ctx, slog.New(slog.DiscardHandler)) }()
		for range 3 {
			time.Sleep(pki.OperatorLife)
			synctest.Wait()
			c, err := pki.ReadCredentials(admin.path)
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(c.Expires()); left < pki.OperatorLife/2 || c.Identity().String() != "admin/root" {
				t.Errorf("%v is good for %v more, want at least %v", c.Identity(), left, pki.OperatorLife/2)
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Errorf("keep = %v", err)
		}
	})
}
