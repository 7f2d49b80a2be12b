package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/credentials"

	"espalier/agent"
	"espalier/internal/desired"
	"espalier/internal/durable"
	"espalier/internal/pki"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/server"
)

// The files of trust in a server's data folder.
const (
	pkiFolder = "pki"
	adminFile = "admin.pem" // credentials for the machine's own operator
	auditFile = "audit.jsonl"
)

// trustFlags say how a server proves who it is.
type trustFlags struct {
	insecure, newAuthority bool
	cert, key, clientCA    string
}

func (t *trustFlags) addFlags(c *cobra.Command) {
	c.Flags().BoolVar(&t.insecure, "insecure", false, "serve without TLS; on loopback only")
	c.Flags().BoolVar(&t.newAuthority, "new-authority", false, "make an authority although there are sets, and so was another, or no TLS: all must join and log in anew")
	c.Flags().StringVar(&t.cert, "tls-cert", "", "the server's certificate, made elsewhere; without it the server makes an authority and signs its own")
	c.Flags().StringVar(&t.key, "tls-key", "", "its key")
	c.Flags().StringVar(&t.clientCA, "client-ca", "", "the authority that has signed it, and the certificates of agents and operators")
}

func (t *trustFlags) check() error {
	own := 0
	for _, path := range []string{t.cert, t.key, t.clientCA} {
		if path != "" {
			own++
		}
	}
	switch {
	case t.newAuthority && (own > 0 || t.insecure):
		return misusef("--new-authority goes without --insecure, --tls-cert, --tls-key and --client-ca")
	case own > 0 && t.insecure:
		return misusef("--insecure goes without --tls-cert, --tls-key and --client-ca")
	case own > 0 && own < 3:
		return misusef("--tls-cert, --tls-key and --client-ca go together")
	}
	return nil
}

// read returns the server's certificate that was made elsewhere; nil: there is
// none.
func (t *trustFlags) read() (*server.Trust, error) {
	if t.cert == "" {
		return nil, nil
	}
	c, err := pki.ReadServer(t.cert, t.key, t.clientCA)
	if err != nil {
		return nil, err
	}
	return &server.Trust{Credentials: pki.NewHolder(c)}, nil
}

// sign returns how a server with its own authority proves who it is, and leaves
// credentials for the machine's operator. fresh says that there is nothing yet in
// the data folder.
func (t *trustFlags) sign(data string, fresh bool) (*server.Trust, *machineAdmin, error) {
	dir := filepath.Join(data, pkiFolder)
	a, err := t.authority(dir, fresh)
	if err != nil {
		return nil, nil, err
	}
	own, err := a.Make(pki.Identity{Role: pki.RoleServer, Name: "server"})
	if err != nil {
		return nil, nil, err
	}
	admin := &machineAdmin{authority: a, path: filepath.Join(dir, adminFile)}
	if err := admin.write(); err != nil {
		return nil, nil, err
	}
	return &server.Trust{Credentials: pki.NewHolder(own), Authority: a}, admin, nil
}

// authority makes an authority only where nobody can have relied on another.
func (t *trustFlags) authority(dir string, fresh bool) (*pki.Authority, error) {
	a, err := pki.OpenAuthority(dir)
	none := errors.Is(err, fs.ErrNotExist)
	switch {
	case err == nil && t.newAuthority:
		return nil, misusef("--new-authority: there is one in %s: move that folder away first, or leave the flag out", dir)
	case !none:
		return a, err
	case !fresh && !t.newAuthority:
		return nil, refused{fmt.Errorf("there are sets, or an audit log, but no authority in %s: put that folder back from a backup; "+
			"if it is lost, or there was no TLS until now, --new-authority makes another, from which all hosts and operators need new tokens", dir)}
	}
	return pki.MakeAuthority(dir)
}

// machineAdmin is the operator that each server's machine has: whoever may read
// the folder of its keys.
type machineAdmin struct {
	authority *pki.Authority
	path      string
}

// write makes new credentials in the place of the old ones.
func (m *machineAdmin) write() error {
	c, err := m.authority.Make(server.MachineAdmin)
	if err != nil {
		return err
	}
	return c.Write(m.path)
}

// keep renews the credentials until ctx is done, a few times in their life.
func (m *machineAdmin) keep(ctx context.Context, log *slog.Logger) error {
	if m == nil {
		return nil
	}
	t := time.NewTicker(pki.OperatorLife / 4)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			if err := m.write(); err != nil {
				log.Error("the admin's credentials were not renewed", "file", m.path, "error", err)
			}
		}
	}
}

// token reads a token; "-" stands for one on standard input, where neither the
// list of processes nor a shell's history shows it.
func (a *app) token(text string) (pki.Token, error) {
	if text == "-" {
		const enough = 1 << 10
		read, err := io.ReadAll(io.LimitReader(a.In, enough))
		if err != nil {
			return pki.Token{}, fmt.Errorf("read token: %w", err)
		}
		text = string(read)
	}
	t, err := pki.ParseToken(text)
	if err != nil {
		return pki.Token{}, misuse{err}
	}
	return t, nil
}

// trusting calls fn with a client for questions of trust.
func (r *remote) trusting(fn func(espalierv1.TrustServiceClient) error) error {
	conn, err := r.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	return fn(espalierv1.NewTrustServiceClient(conn))
}

func (a *app) tokenCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Let a host or an operator in: 'espalier token create'",
		Args:  exactArgs(),
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.createTokenCommand())
	return c
}

// tokenDocument is a new token for programs.
type tokenDocument struct {
	Token   string    `json:"token"`
	Role    string    `json:"role"`
	Name    string    `json:"name"`
	Sets    []string  `json:"sets,omitempty"`
	Expires time.Time `json:"expires"`
}

func (a *app) createTokenCommand() *cobra.Command {
	var host, operator, role string
	var sets []string
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "create --host NAME | --operator NAME --role ROLE",
		Short: "Print a one-time token with which a host or an operator gets a certificate",
		Long: "Prints a token that works once, for one host or operator; who has it first is in. On the host:\n\n" +
			"  espalier agent --join TOKEN --server ADDR --data DIR\n\nAn operator runs:\n\n  espalier login TOKEN --server ADDR\n\n" +
			"A reader reads sets; a writer also publishes them; an admin does everything: tokens, revocations, restores,\n" +
			"deleting sets, the audit log.",
		Example: "  espalier token create --host web-01\n" +
			"  espalier token create --operator ci --role writer --sets 'web-*,db-*' --ttl 24h",
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			req := &espalierv1.CreateTokenRequest{Role: role, Name: operator, Sets: sets, TtlSeconds: uint32(min(ttl/time.Second, 1<<31))}
			switch {
			case (host == "") == (operator == ""):
				return misusef("want one of --host and --operator")
			case ttl < time.Second:
				return misusef("--ttl %v: want a second or more", ttl)
			case ttl > server.MaxTokenLife:
				return misusef("--ttl %v: want %d days or less", ttl, server.MaxTokenLife/(24*time.Hour))
			case host != "" && (role != "" || len(sets) > 0):
				return misusef("--role and --sets go with --operator")
			case host != "":
				req.Role, req.Name = string(pki.RoleHost), host
			case !pki.Role(role).Operator():
				return misusef("--operator wants --role admin, writer or reader, not %q", role)
			case c.Flags().Changed("sets") && len(sets) == 0:
				return misusef("--sets is empty: leave it out to allow all sets")
			case pki.Role(role) == pki.RoleAdmin && len(sets) > 0:
				return misusef("--sets goes with --role writer or reader: an admin may use all")
			}
			return a.createToken(c.Context(), req)
		},
	}
	c.Flags().StringVar(&host, "host", "", "the host that may join")
	c.Flags().StringVar(&operator, "operator", "", "the operator who may log in")
	c.Flags().StringVar(&role, "role", "", "of the operator: admin, writer or reader")
	c.Flags().StringSliceVar(&sets, "sets", nil, "of a writer or reader: patterns of the sets, such as 'web-*'; none: all")
	c.Flags().DurationVar(&ttl, "ttl", server.DefaultTokenLife, "how long the token waits for its use")
	completeBy(c, "host", a.completeHost)
	complete(c, "role", string(pki.RoleAdmin), string(pki.RoleWriter), string(pki.RoleReader))
	a.remote.addFlags(c)
	return c
}

func (a *app) createToken(ctx context.Context, req *espalierv1.CreateTokenRequest) error {
	return a.remote.trusting(func(client espalierv1.TrustServiceClient) error {
		resp, err := client.CreateToken(ctx, req)
		if err != nil {
			return wire.FromStatus(err)
		}
		var t pki.Token
		if copy(t.Secret[:], resp.GetSecret()) != len(t.Secret) || copy(t.Authority[:], resp.GetAuthority()) != len(t.Authority) {
			return errors.New("the server's answer is no token")
		}
		if a.output == "json" {
			return a.document(tokenDocument{
				Token: t.Text(), Role: req.GetRole(), Name: req.GetName(), Sets: req.GetSets(),
				Expires: time.Now().Add(time.Duration(req.GetTtlSeconds()) * time.Second).UTC().Truncate(time.Second),
			})
		}
		_, err = fmt.Fprintln(a.Out, t.Text())
		return err
	})
}

func (a *app) loginCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "login TOKEN",
		Short: "Exchange a token for your credentials",
		Long: "Exchanges a token that 'espalier token create --operator NAME' printed for credentials, good for " +
			fmt.Sprint(int(pki.OperatorLife/(24*time.Hour))) + " days,\n" +
			"which replace those in the file that --identity names. - reads the token from standard input.",
		Args: exactArgs("TOKEN"),
		RunE: func(c *cobra.Command, args []string) error {
			if a.remote.insecure {
				return misusef("there is nothing to log in to with --insecure")
			}
			token, err := a.token(args[0])
			if err != nil {
				return err
			}
			return a.login(c.Context(), token)
		},
	}
	a.remote.addFlags(c)
	return c
}

// loginDocument is who has logged in, for programs.
type loginDocument struct {
	Role     pki.Role     `json:"role"`
	Name     desired.Name `json:"name"`
	Sets     []string     `json:"sets,omitempty"`
	Expires  time.Time    `json:"expires"`
	Identity string       `json:"identity"` // the file
}

// checkReplaced returns nil if credentials can be written to path, and don't
// replace what is something else.
func checkReplaced(path string) error {
	if err := durable.MakeFolder(filepath.Dir(path)); err != nil {
		return err
	}
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return misusef("--identity %s: %w", path, err)
	case len(old) > 0 && !bytes.Contains(old, []byte("-----BEGIN ")):
		return misusef("--identity %s: there is a file that holds no credentials; name another, or remove it", path)
	}
	f, err := os.OpenFile(path+durable.Suffix, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("credentials can't be written: %w", err)
	}
	return errors.Join(f.Close(), os.Remove(path+durable.Suffix))
}

func (a *app) login(ctx context.Context, token pki.Token) error {
	path, err := a.remote.identityPath()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), "ca.pem")); err == nil {
		return misusef("%s lies among the server's own keys: name another file with --identity", path)
	}
	if err := a.remote.checkAddress(); err != nil {
		return err
	}
	if err := checkReplaced(path); err != nil { // before the token is used up
		return err
	}
	conn, err := a.remote.dialWith(a.remote.address, credentials.NewTLS(pki.JoinConfig(token.Authority)))
	if err != nil {
		return err
	}
	defer conn.Close()
	got, err := agent.Enroll(ctx, conn, token, pki.Want{Roles: pki.Operators})
	if err != nil {
		return wire.FromStatus(err)
	}
	who := got.Identity()
	if err := got.Write(path); err != nil {
		return err
	}
	if a.output == "json" {
		return a.document(loginDocument{Role: who.Role, Name: who.Name, Sets: who.Sets, Expires: got.Expires().UTC(), Identity: path})
	}
	_, err = fmt.Fprintf(a.Out, "you are %v until %s; your credentials are in %s\n",
		who, got.Expires().Format(time.RFC3339), path)
	return err
}

func (a *app) hostCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "host",
		Short: "Say what a host does: which sets it mirrors, whether it is paused, what it may delete; or shut it out",
		Args:  exactArgs(),
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.hostSetsCommand(), a.hostPauseCommand(), a.hostResumeCommand(), a.hostReleaseCommand(), a.revokeCommand(pki.RoleHost))
	return c
}

func (a *app) operatorCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "operator",
		Short: "Shut an operator out: 'espalier operator revoke'",
		Args:  exactArgs(),
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.revokeCommand(""))
	return c
}

// revokedDocument is who was shut out, for programs.
type revokedDocument struct {
	Name        desired.Name `json:"name"`
	Connections uint32       `json:"connections"` // that were ended
	// NeverIssued is true if the server knows that they never had anything.
	NeverIssued bool `json:"never_issued"`
}

// revokeCommand shuts out those of a role; "": an operator, of each role.
func (a *app) revokeCommand(role pki.Role) *cobra.Command {
	var why string
	roles := []pki.Role{role}
	if role == "" {
		roles = []pki.Role{pki.RoleReader, pki.RoleWriter, pki.RoleAdmin} // who revokes itself gets to the end
	}
	c := &cobra.Command{
		Use:   "revoke NAME",
		Short: "Make the certificates worthless that NAME has, and end its connections; a new token lets it in again",
		Args:  exactArgs("NAME"),
		RunE: func(c *cobra.Command, args []string) error {
			name, err := desired.ParseName(args[0])
			if err != nil {
				return misuse{err}
			}
			return a.revoke(c.Context(), name, roles, why)
		},
	}
	if role == pki.RoleHost {
		c.ValidArgsFunction = a.completeHost
	}
	c.Flags().StringVarP(&why, "message", "m", "", "why, for the audit log")
	a.remote.addFlags(c)
	return c
}

func (a *app) revoke(ctx context.Context, name desired.Name, roles []pki.Role, why string) error {
	d := revokedDocument{Name: name, NeverIssued: true}
	err := a.remote.trusting(func(client espalierv1.TrustServiceClient) error {
		for _, role := range roles {
			resp, err := client.Revoke(ctx, &espalierv1.RevokeRequest{Role: string(role), Name: string(name), Why: why})
			if err != nil {
				return wire.FromStatus(err)
			}
			d.Connections += resp.GetConnections()
			d.NeverIssued = d.NeverIssued && resp.GetNeverIssued()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.document(d)
	}
	text := fmt.Sprintf("revoked %s; %s ended", name, counted(uint64(d.Connections), "connection"))
	if d.NeverIssued {
		text += "; the audit log knows of no token or certificate that it ever had: is that the name?"
	}
	_, err = fmt.Fprintln(a.Out, text)
	return err
}
