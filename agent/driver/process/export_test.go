package process

// What black-box tests can't reach otherwise.
var (
	Version    = Spec.version
	FileName   = fileName
	LogPattern = logPattern
)
