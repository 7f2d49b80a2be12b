// Package wire turns the messages of proto/espalier/v1 into the domain's types
// and back, and errors into status codes and back. It is the only package that
// knows both sides. Each XFromWire validates what it is given: what comes out
// of it is within the domain's bounds, and everything else is an error that
// matches desired.ErrInvalid.
package wire
