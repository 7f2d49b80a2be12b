package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	"espalier/internal/audit"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
)

// auditPage is how many records go into a message.
const auditPage = 64

func (t trustService) Audit(req *espalierv1.AuditRequest, stream espalierv1.TrustService_AuditServer) error {
	log := t.server.options.Audit
	if log == nil {
		return wire.ToStatus(fmt.Errorf("%w: it keeps no audit log", wire.ErrUnsupported))
	}
	after := req.GetAfter()
	if last := log.Last(); req.GetLimit() > 0 && req.GetLimit() < last {
		after = max(after, last-req.GetLimit())
	}
	resp := &espalierv1.AuditResponse{}
	err := log.Read(func(line []byte, r audit.Record) error {
		if r.Number <= after {
			return stream.Context().Err()
		}
		resp.Records = append(resp.Records, append([]byte(nil), line...))
		if len(resp.Records) < auditPage {
			return nil
		}
		err := stream.Send(resp)
		resp = &espalierv1.AuditResponse{}
		return err
	})
	if len(resp.Records) > 0 {
		err = errors.Join(err, stream.Send(resp))
	}
	return wire.ToStatus(err)
}

// record writes r to the audit log, durably, with who makes the call and err,
// how it ended, which it returns. What can't be recorded has failed.
func (s *Server) record(ctx context.Context, r audit.Record, err error) error {
	if err := s.note(ctx, r, err); err != nil {
		return err
	}
	if log := s.options.Audit; log != nil {
		if e := log.Sync(); e != nil {
			return errors.Join(err, e)
		}
	}
	return err
}

// note is record without waiting for the disk: a timer sees to that.
func (s *Server) note(ctx context.Context, r audit.Record, err error) error {
	log := s.options.Audit
	if log == nil {
		return err
	}
	r.Who, r.From = callerOf(ctx).String(), addressOf(ctx)
	if err != nil {
		r.Error = fmt.Sprintf("%.1000s", status.Convert(err).Message())
	}
	if e := log.Append(r); e != nil {
		s.log.Error("the audit log can't be written", "error", e)
		return errors.Join(err, e)
	}
	s.issued.see(r)
	return err
}

// syncAudit makes the audit log durable now and then.
func (s *Server) syncAudit(ctx context.Context) error {
	log := s.options.Audit
	if log == nil {
		return nil
	}
	t := time.NewTicker(AuditSync)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := log.Sync(); err != nil {
				s.log.Error("the audit log can't be written", "error", err)
			}
		}
	}
}

// readAudit reads the audit log once, beside all else, since it may be long: it
// says if that is not what was written, and learns to whom something was issued.
func (s *Server) readAudit(ctx context.Context) error {
	log := s.options.Audit
	if log == nil {
		return nil
	}
	err := log.Read(func(_ []byte, r audit.Record) error {
		s.issued.see(r)
		return ctx.Err()
	})
	switch {
	case ctx.Err() != nil:
	case err != nil:
		s.log.Warn("the audit log is not what was written: 'espalier audit' says where; what is done from now on is recorded behind it", "error", err)
	default:
		s.issued.know()
	}
	return nil
}

// issued are those to whom a token or certificate was ever issued, as far as the
// audit log says.
type issued struct {
	mu    sync.Mutex
	to    map[string]struct{} // MaxIssued at most
	whole bool                // nobody is missing of whom the log knows
	full  bool
}

// see learns from a record.
func (i *issued) see(r audit.Record) {
	if r.Error != "" || r.What != whatToken && r.What != whatEnroll {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.full = i.full || len(i.to) >= MaxIssued; !i.full {
		i.to[r.On] = struct{}{}
	}
}

// know is called once see was with each record that there is.
func (i *issued) know() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.whole = true
}

// never reports whether nothing was ever issued to who; false also if that isn't
// known.
func (i *issued) never(who string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, ok := i.to[who]
	return i.whole && !i.full && !ok
}
