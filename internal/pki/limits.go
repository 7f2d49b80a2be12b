package pki

import "time"

// Every bound of this package, with its reason.
const (
	// MaxPatterns bounds the patterns of one identity, which travel in every
	// certificate.
	MaxPatterns = 16
	// MaxRequestBytes bounds a certificate request, MaxPEMBytes a file.
	MaxRequestBytes = 8 << 10
	MaxPEMBytes     = 256 << 10

	// LeafLife is how long a certificate of a host is good, which bounds what a
	// stolen one is worth where nobody notices; it is renewed at half of that.
	LeafLife = 24 * time.Hour
	// OperatorLife is that of an operator's: people don't log in every day.
	OperatorLife = 30 * 24 * time.Hour
	// ServerLife is that of a server's, which makes its own anew when it starts,
	// and when half of it is over.
	ServerLife = 90 * 24 * time.Hour
	// AuthorityLife is that of the authority.
	AuthorityLife = 20 * 365 * 24 * time.Hour
	// Skew is how far clocks may be apart.
	Skew = 5 * time.Minute
)
