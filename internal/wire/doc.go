// Package wire turns the messages of proto/espalier/v1 into the domain's types
// and back, and errors into status codes and back. It is the only package that
// knows both sides. Each XFromWire validates what it is given: what comes out
// of it is within the domain's bounds. Everything else is an error: one that
// matches desired.ErrInvalid in what a client sends, delta.ErrProtocol in what a
// server answers, which no user can mend.
package wire
