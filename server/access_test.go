package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/pki"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/server"
	"espalier/store"
)

// accessTable says what becomes of each call, by who makes it: of nobody, of
// those whose certificate is expired, of another authority, revoked, or the
// server's own; of host web-1 about set web-1, and about db-1; of an admin; of a
// writer and a reader of web-* about web-1, and about db-1.
//
//	.  it is let through
//	x  there is no connection
//	?  Unauthenticated: nobody knows who it is
//	-  PermissionDenied: not with that role
//	0  there is no such set, as of one that does not exist
const accessTable = `
	                      none expired foreign revoked server | host other | admin | writer other | reader other
	sync/Poll               ?     x       x       ?      x       .     0       .       .      0        .      0
	sync/Pull               ?     x       x       ?      x       .     0       .       .      0        .      0
	operator/ListSets       ?     x       x       ?      x       -     -       .       .      .        .      .
	operator/GetHead        ?     x       x       ?      x       -     -       .       .      0        .      0
	operator/Log            ?     x       x       ?      x       -     -       .       .      0        .      0
	operator/GetObject      ?     x       x       ?      x       -     -       .       .      0        .      0
	operator/ListObjects    ?     x       x       ?      x       -     -       .       .      0        .      0
	operator/Match          ?     x       x       ?      x       -     -       .       .      0        .      0
	operator/Check          ?     x       x       ?      x       -     -       .       .      0        .      0
	operator/Commit         ?     x       x       ?      x       -     -       .       .      0        -      -
	operator/Commit+restore ?     x       x       ?      x       -     -       .       -      -        -      -
	operator/DeleteSet      ?     x       x       ?      x       -     -       .       -      -        -      -
	operator/Renew          ?     x       x       ?      x       -     -       .       -      -        -      -
	operator/Compact        ?     x       x       ?      x       -     -       .       -      -        -      -
	fleet/ListHosts         ?     x       x       ?      x       -     -       .       .      .        .      .
	fleet/GetHost           ?     x       x       ?      x       -     -       .       .      0        .      0
	fleet/SetList           ?     x       x       ?      x       -     -       .       -      -        -      -
	fleet/SetOrders         ?     x       x       ?      x       -     -       .       -      -        -      -
	trust/Enroll            .     x       x       ?      x       .     .       .       .      .        .      .
	trust/RenewCertificate  ?     x       x       ?      x       .     .       -       -      -        -      -
	trust/CreateToken       ?     x       x       ?      x       -     -       .       -      -        -      -
	trust/Revoke            ?     x       x       ?      x       -     -       .       -      -        -      -
	trust/Audit             ?     x       x       ?      x       -     -       .       -      -        -      -
	health/Check            .     x       x       ?      x       .     .       .       .      .        .      .
	health/Watch            .     x       x       ?      x       .     .       .       .      .        .      .
	health/List             .     x       x       ?      x       .     .       .       .      .        .      .
	reflection/v1           ?     x       x       ?      x       -     -       .       .      .        .      .
	reflection/v1alpha      ?     x       x       ?      x       -     -       .       .      .        .      .
`

// calls are those of the table: the method, and a message that does no harm to
// other rows where it is let through.
var calls = map[string]struct {
	method  string
	message func(set string) proto.Message
}{
	"sync/Poll": {espalierv1.SyncService_Poll_FullMethodName, func(set string) proto.Message {
		return &espalierv1.PollRequest{Sets: []*espalierv1.HeldSet{{Name: set}}, Report: &espalierv1.HostReport{}}
	}},
	"sync/Pull": {espalierv1.SyncService_Pull_FullMethodName, func(set string) proto.Message {
		return wire.PullRequestToWire(delta.Request{Open: &delta.Open{Set: desired.Name(set), Mode: delta.Full, Width: delta.ShortWidth}})
	}},
	"operator/ListSets": {espalierv1.OperatorService_ListSets_FullMethodName, func(string) proto.Message {
		return &espalierv1.ListSetsRequest{}
	}},
	"operator/GetHead": {espalierv1.OperatorService_GetHead_FullMethodName, func(set string) proto.Message {
		return &espalierv1.GetHeadRequest{Set: set}
	}},
	"operator/Log": {espalierv1.OperatorService_Log_FullMethodName, func(set string) proto.Message {
		return &espalierv1.LogRequest{Set: set}
	}},
	"operator/GetObject": {espalierv1.OperatorService_GetObject_FullMethodName, func(set string) proto.Message {
		return &espalierv1.GetObjectRequest{Set: set, Key: []byte("a")}
	}},
	"operator/ListObjects": {espalierv1.OperatorService_ListObjects_FullMethodName, func(set string) proto.Message {
		return &espalierv1.ListObjectsRequest{Set: set}
	}},
	"operator/Match": {espalierv1.OperatorService_Match_FullMethodName, func(set string) proto.Message {
		return &espalierv1.MatchRequest{Set: set, Frame: delta.NewFrameWriter(codec).Frame()}
	}},
	"operator/Check": {espalierv1.OperatorService_Check_FullMethodName, func(set string) proto.Message {
		return &espalierv1.CheckRequest{Set: set}
	}},
	"operator/Commit": {espalierv1.OperatorService_Commit_FullMethodName, func(set string) proto.Message {
		return &espalierv1.CommitRequest{Terms: &espalierv1.CommitTerms{Set: set}}
	}},
	"operator/Commit+restore": {espalierv1.OperatorService_Commit_FullMethodName, func(set string) proto.Message {
		return &espalierv1.CommitRequest{Terms: &espalierv1.CommitTerms{Set: set, Restore: &espalierv1.Restore{DryRun: true}}}
	}},
	"operator/DeleteSet": {espalierv1.OperatorService_DeleteSet_FullMethodName, func(set string) proto.Message {
		return &espalierv1.DeleteSetRequest{Set: set, Expect: &espalierv1.Position{Number: 1 << 40}}
	}},
	"operator/Renew": {espalierv1.OperatorService_Renew_FullMethodName, func(set string) proto.Message {
		return &espalierv1.RenewRequest{Set: set}
	}},
	"operator/Compact": {espalierv1.OperatorService_Compact_FullMethodName, func(set string) proto.Message {
		return &espalierv1.CompactRequest{Set: set}
	}},
	"fleet/ListHosts": {espalierv1.FleetService_ListHosts_FullMethodName, func(string) proto.Message {
		return &espalierv1.ListHostsRequest{}
	}},
	"fleet/GetHost": {espalierv1.FleetService_GetHost_FullMethodName, func(set string) proto.Message {
		return &espalierv1.GetHostRequest{Host: set}
	}},
	"fleet/SetList": {espalierv1.FleetService_SetList_FullMethodName, func(set string) proto.Message {
		return &espalierv1.SetListRequest{Host: set, Sets: []string{set}}
	}},
	"fleet/SetOrders": {espalierv1.FleetService_SetOrders_FullMethodName, func(set string) proto.Message {
		return &espalierv1.SetOrdersRequest{Host: set, Order: espalierv1.SetOrdersRequest_ORDER_PAUSE}
	}},
	"trust/Enroll": {espalierv1.TrustService_Enroll_FullMethodName, func(string) proto.Message {
		return &espalierv1.EnrollRequest{}
	}},
	"trust/RenewCertificate": {espalierv1.TrustService_RenewCertificate_FullMethodName, func(string) proto.Message {
		return &espalierv1.RenewCertificateRequest{}
	}},
	"trust/CreateToken": {espalierv1.TrustService_CreateToken_FullMethodName, func(string) proto.Message {
		return &espalierv1.CreateTokenRequest{}
	}},
	"trust/Revoke": {espalierv1.TrustService_Revoke_FullMethodName, func(string) proto.Message {
		return &espalierv1.RevokeRequest{}
	}},
	"trust/Audit": {espalierv1.TrustService_Audit_FullMethodName, func(string) proto.Message {
		return &espalierv1.AuditRequest{}
	}},
	"health/Check": {healthv1.Health_Check_FullMethodName, func(string) proto.Message { return &healthv1.HealthCheckRequest{} }},
	"health/Watch": {healthv1.Health_Watch_FullMethodName, func(string) proto.Message { return &healthv1.HealthCheckRequest{} }},
	"health/List":  {healthv1.Health_List_FullMethodName, func(string) proto.Message { return &healthv1.HealthListRequest{} }},
	"reflection/v1": {reflectionv1.ServerReflection_ServerReflectionInfo_FullMethodName, func(string) proto.Message {
		return &reflectionv1.ServerReflectionRequest{}
	}},
	"reflection/v1alpha": {reflectionv1alpha.ServerReflection_ServerReflectionInfo_FullMethodName, func(string) proto.Message {
		return &reflectionv1.ServerReflectionRequest{}
	}},
}

// call makes a call of any kind, and returns its first answer, encoded.
func call(ctx context.Context, conn *grpc.ClientConn, method string, message proto.Message) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(message); err != nil && !errors.Is(err, io.EOF) { // whose reason RecvMsg has
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	var answer emptypb.Empty
	if err := stream.RecvMsg(&answer); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return answer.ProtoReflect().GetUnknown(), nil
}

// outcome returns the sign of accessTable for how a call ended.
func outcome(t *testing.T, answer []byte, method string, err error) string {
	t.Helper()
	switch status.Code(err) {
	case codes.Unavailable:
		return "x"
	case codes.Unauthenticated:
		return "?"
	case codes.PermissionDenied:
		return "-"
	case codes.NotFound:
		return "0"
	case codes.OK, codes.InvalidArgument, codes.FailedPrecondition:
	default:
		return err.Error()
	}
	var poll espalierv1.PollResponse
	if method != espalierv1.SyncService_Poll_FullMethodName {
		return "."
	}
	if err := proto.Unmarshal(answer, &poll); err != nil {
		t.Fatal(err)
	}
	if len(poll.GetSets()) == 1 && poll.GetSets()[0].GetStatus() == espalierv1.SetAnswer_STATUS_UNKNOWN {
		return "0"
	}
	return "."
}

// column is one of accessTable.
type column struct {
	name   string
	config *tls.Config
	set    string
}

func columns(t *testing.T, w *secured) []column {
	t.Helper()
	elsewhere, err := pki.MakeAuthority(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := elsewhere.Make(root)
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := pki.NewHolder(foreign).ClientConfig().GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	gone := w.as(pki.Identity{Role: pki.RoleAdmin, Name: "gone"})
	if _, err := w.admin().Revoke(t.Context(), &espalierv1.RevokeRequest{Role: "admin", Name: "gone"}); err != nil {
		t.Fatal(err)
	}
	host := w.as(web1)
	for _, config := range []*tls.Config{host, w.as(pki.Identity{Role: pki.RoleHost, Name: "db-1"})} { // so that both are known
		if _, err := espalierv1.NewSyncServiceClient(w.dial(config)).Poll(t.Context(), &espalierv1.PollRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	writer := w.as(pki.Identity{Role: pki.RoleWriter, Name: "w", Sets: []string{"web-*"}})
	reader := w.as(pki.Identity{Role: pki.RoleReader, Name: "r", Sets: []string{"web-*"}})
	return []column{
		{"none", w.nobody(), "web-1"},
		{"expired", w.forged(root, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "web-1"},
		{"foreign", showing(w.nobody(), stolen), "web-1"},
		{"revoked", gone, "web-1"},
		{"server", w.as(pki.Identity{Role: pki.RoleServer, Name: "server"}), "web-1"},
		{"host", host, "web-1"},
		{"other", host, "db-1"},
		{"admin", w.as(root), "web-1"},
		{"writer", writer, "web-1"},
		{"other", writer, "db-1"},
		{"reader", reader, "web-1"},
		{"other", reader, "db-1"},
	}
}

// readTable returns the columns' names, and the signs of each row.
func readTable(t *testing.T) (names []string, rows map[string][]string) {
	t.Helper()
	rows = map[string][]string{}
	for line := range strings.Lines(strings.ReplaceAll(accessTable, "|", " ")) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case names == nil:
			names = fields
		case len(fields) != len(names)+1 || rows[fields[0]] != nil:
			t.Fatalf("row %q has %d signs, want %d, or there are two", fields[0], len(fields)-1, len(names))
		default:
			rows[fields[0]] = fields[1:]
		}
	}
	return names, rows
}

func TestAccess(t *testing.T) {
	w := secure(t)
	w.make(t, "web-1", "db-1")
	names, rows := readTable(t)
	for i, c := range columns(t, w) {
		if names[i] != c.name {
			t.Fatalf("column %d of the table is %q, want %q", i, names[i], c.name)
		}
		conn := w.dial(c.config)
		for row, signs := range rows {
			if c.name == "none" {
				conn = w.dial(c.config) // or it would soon have made too many calls
			}
			m := calls[row]
			answer, err := call(t.Context(), conn, m.method, m.message(c.set))
			if got := outcome(t, answer, m.method, err); got != signs[i] {
				t.Errorf("%s by %s about %s: %q (%v), want %q", row, c.name, c.set, got, err, signs[i])
			}
		}
	}
}

// TestAccessIsWhole: each call that the server answers has a rule, and a row in
// the table.
func TestAccessIsWhole(t *testing.T) {
	_, rows := readTable(t)
	tested := map[string]bool{}
	for row := range rows {
		if calls[row].method == "" {
			t.Errorf("row %q has no call", row)
		}
		tested[calls[row].method] = true
	}
	g := serveWith(t, secure(t), func(*grpc.Server) {})
	n := 0
	for service, info := range g.server.GetServiceInfo() {
		for _, m := range info.Methods {
			method := "/" + service + "/" + m.Name
			if n++; !server.Ruled(method) || !tested[method] {
				t.Errorf("%s: has a rule: %v, is in the table: %v", method, server.Ruled(method), tested[method])
			}
		}
	}
	if n != server.Rules() {
		t.Errorf("there are rules for %d calls, and %d calls", server.Rules(), n)
	}
}

type serving struct {
	*secured
	server *grpc.Server
}

// serveWith stops what w runs, and starts a server that register has added to.
func serveWith(t *testing.T, w *secured, register func(*grpc.Server)) serving {
	t.Helper()
	w.stop()
	s, closing := w.open()
	var l net.Listener
	l, w.dialer = w.listen()
	g, err := s.ServeWith(l, register)
	if err != nil {
		t.Fatal(err)
	}
	w.stop = func() {
		g.Stop()
		closing()
	}
	return serving{w, g}
}

// TestCallWithoutRule registers calls that nobody has made a rule for: not even
// an admin may make them.
func TestCallWithoutRule(t *testing.T) {
	ran := false
	w := serveWith(t, secure(t), func(g *grpc.Server) {
		g.RegisterService(&grpc.ServiceDesc{
			ServiceName: "espalier.v1.NewService", HandlerType: (*any)(nil),
			Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(s any, ctx context.Context, decode func(any) error, check grpc.UnaryServerInterceptor) (any, error) {
				m := &emptypb.Empty{}
				if err := decode(m); err != nil {
					return nil, err
				}
				info := &grpc.UnaryServerInfo{Server: s, FullMethod: "/espalier.v1.NewService/Unary"}
				return check(ctx, m, info, func(context.Context, any) (any, error) { ran = true; return m, nil })
			}}},
			Streams: []grpc.StreamDesc{{StreamName: "Stream", ServerStreams: true, Handler: func(any, grpc.ServerStream) error { ran = true; return nil }}},
		}, struct{}{})
	})
	conn := w.dial(w.as(root))
	for _, method := range []string{"Unary", "Stream"} {
		_, err := call(t.Context(), conn, "/espalier.v1.NewService/"+method, &emptypb.Empty{})
		if status.Code(err) != codes.PermissionDenied || ran {
			t.Errorf("%s: %v, ran: %v, want %v", method, err, ran, codes.PermissionDenied)
		}
	}
}

// TestForeignAndUnknown: what one may not use can't be told from what is not
// there.
func TestForeignAndUnknown(t *testing.T) {
	w := secure(t)
	w.make(t, "web-1", "db-1")
	_, rows := readTable(t)
	columns := columns(t, w)
	admin := w.dial(w.as(root))
	for i, c := range columns {
		conn := w.dial(c.config)
		for row, signs := range rows {
			if signs[i] != "0" {
				continue
			}
			m := calls[row]
			foreign, foreignErr := call(t.Context(), conn, m.method, m.message("db-1"))
			unknown, unknownErr := call(t.Context(), conn, m.method, m.message("no-1"))
			foreign, unknown = timeless(t, m.method, foreign), timeless(t, m.method, unknown)
			same := statusOf(t, foreignErr, "db-1") == statusOf(t, unknownErr, "no-1") && string(foreign) == string(unknown)
			if !same {
				t.Errorf("%s by %s: %q, %v of a foreign set, %q, %v of an unknown one", row, columns[i-1].name, foreign, foreignErr, unknown, unknownErr)
			}
			if row == "operator/Commit" { // which would make it
				continue
			}
			none, err := call(t.Context(), admin, m.method, m.message("no-1"))
			if statusOf(t, err, "no-1") != statusOf(t, unknownErr, "no-1") || string(timeless(t, m.method, none)) != string(unknown) {
				t.Errorf("%s by %s: %v, but %v to who may use all", row, columns[i-1].name, unknownErr, err)
			}
		}
	}
}

// timeless returns an answer without the time to poll next, which is drawn.
func timeless(t *testing.T, method string, answer []byte) []byte {
	t.Helper()
	if method != espalierv1.SyncService_Poll_FullMethodName {
		return answer
	}
	var poll espalierv1.PollResponse
	if err := proto.Unmarshal(answer, &poll); err != nil {
		t.Fatal(err)
	}
	poll.NextPollMs = 0
	answer, err := proto.MarshalOptions{Deterministic: true}.Marshal(&poll)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// statusOf returns all that travels of an error, but for the set's name.
func statusOf(t *testing.T, err error, set string) string {
	t.Helper()
	encoded, e := proto.MarshalOptions{Deterministic: true}.Marshal(status.Convert(err).Proto())
	if e != nil {
		t.Fatal(e)
	}
	return strings.ReplaceAll(string(encoded), set, "SET")
}

// TestMessagesThatChangeSets name a set that is the caller's, and then one that
// isn't, or none.
func TestMessagesThatChangeSets(t *testing.T) {
	w := secure(t)
	w.make(t, "web-1", "db-1")
	host, writer := w.dial(w.as(web1)), w.dial(w.as(pki.Identity{Role: pki.RoleWriter, Name: "w", Sets: []string{"web-*"}}))
	pull, commit, match := calls["sync/Pull"], calls["operator/Commit"], calls["operator/Match"]
	terms := func(set string) *espalierv1.CommitRequest {
		return &espalierv1.CommitRequest{Terms: &espalierv1.CommitTerms{Set: set}, Frame: frame(t, put("b", "2"))}
	}
	for _, c := range []struct {
		name     string
		conn     *grpc.ClientConn
		method   string
		messages []proto.Message
		want     error
	}{
		{"an Open of another set", host, pull.method, []proto.Message{pull.message("web-1"), pull.message("db-1")}, store.ErrNotFound},
		{"an Open of no set", host, pull.method, []proto.Message{pull.message("")}, desired.ErrInvalid},
		{"a step before an Open", host, pull.method, []proto.Message{wire.PullRequestToWire(delta.Request{Narrow: []byte{0, 1}})}, delta.ErrProtocol},
		{"terms of another set", writer, commit.method, []proto.Message{terms("web-1"), terms("db-1")}, store.ErrNotFound},
		{"terms of no set", writer, commit.method, []proto.Message{terms("")}, desired.ErrInvalid},
		{"no terms", writer, commit.method, []proto.Message{&espalierv1.CommitRequest{Frame: frame(t, put("b", "2"))}, terms("db-1")}, desired.ErrInvalid},
		{"a Match of another set", writer, match.method, []proto.Message{match.message("web-1"), match.message("db-1")}, store.ErrNotFound},
		{"a Match of no set", writer, match.method, []proto.Message{match.message(""), match.message("db-1")}, desired.ErrInvalid},
	} {
		stream, err := c.conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, c.method)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range c.messages {
			if stream.SendMsg(m) != nil {
				break
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			err = stream.RecvMsg(&emptypb.Empty{})
		}
		if c.name == "an Open of another set" && errors.Is(err, io.EOF) {
			continue // the first pull had ended before the second began
		}
		if !errors.Is(wire.FromStatus(err), c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	for _, set := range []desired.Name{"web-1", "db-1"} {
		if head, err := w.store.Head(set); err != nil || head.Number != 1 {
			t.Errorf("set %s: %v, %v, want revision 1", set, head, err)
		}
	}
}

// TestListSetsOfCaller lists what the caller may use, a page at a time.
func TestListSetsOfCaller(t *testing.T) {
	w := secure(t)
	w.make(t, "db-1", "web-1", "web-2", "zoo")
	client := espalierv1.NewOperatorServiceClient(w.dial(w.as(pki.Identity{Role: pki.RoleReader, Name: "r", Sets: []string{"web-*"}})))
	for after, want := range map[string]string{"": "web-1 more", "web-1": "web-2", "web-2": ""} {
		resp, err := client.ListSets(t.Context(), &espalierv1.ListSetsRequest{After: after, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range resp.GetSets() {
			got = append(got, s.GetName())
		}
		if resp.GetMore() {
			got = append(got, "more")
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("after %q: %q, want %q", after, s, want)
		}
	}
}
