package pace

import "time"

// Every constant of pacing, with its reason. Those that the benchmark chose name
// it: espalier bench pacing.
const (
	// DefaultObjective is the longest that a change shall wait to be noticed.
	DefaultObjective = 2 * time.Minute
	// DefaultBudget is how many polls a second a server takes: with 88 µs of CPU
	// for both ends of one, less than 5% of a core, and 10,000 hosts every 20 s.
	DefaultBudget = 500

	// MinHint is the shortest interval that a server asks for. Twice what an agent
	// may have as its least, so that jitter never meets that bound.
	MinHint = 2 * time.Second
	// MaxHint is the longest, whatever the budget: a host that is slower can't be
	// told from one that is gone.
	MaxHint = time.Hour

	// pollCost is the least price of a poll, in seconds that one change waits: some
	// twenty times the CPU that it takes. It keeps a small fleet, which no budget
	// binds, from polling for nothing: a set that changes daily is asked for every
	// 19 s.
	pollCost = 0.002
	// aim is the part of the budget that hints fill. The rest is for what hints
	// don't govern: first polls, retries, chance.
	aim = 0.95

	// rateMemory is the time constant of the decaying count of changes: sets that
	// change with the day's work keep their rate overnight.
	rateMemory = 24 * time.Hour
	// burstMemory is that of the count of recent changes: people and programs that
	// change something go on within a minute or two, or don't. The benchmark
	// likes one minute a little better where changes are 20 s apart, two where
	// they are 60 s.
	burstMemory = time.Minute
	// priorChanges is how many changes of a set outweigh what is known of the
	// fleet. Below one, since rates differ by orders of magnitude.
	priorChanges = 0.5
	// priorRate is the rate of a fleet that nothing is known of: once an hour. It
	// counts as priorTime of observing one set.
	priorRate = 1.0 / 3600
	priorTime = time.Hour
	// startFollow is the share of changes that follow another closely, until it is
	// learned. minFollow leaves something to learn from; maxFollow keeps some
	// weight on what a set does on its own.
	startFollow = 0.5
	minFollow   = 0.02
	maxFollow   = 0.95
	// followLearning is the weight of one change in that share: some hundreds of
	// changes teach it.
	followLearning = 1.0 / 256

	// censusMemory is the time constant, in longest intervals, in which the census forgets
	// hosts: several, so that one that polls rarely is
	// counted evenly, and one that is gone makes room within minutes.
	censusMemory = 3
	// solveEvery is how often the price is computed anew, which takes as long as
	// a poll or less: often enough for a fleet that changes within minutes.
	solveEvery = 5 * time.Second
	// surge is the part of the budget by which the fleet may exceed it while much
	// changes at once, surgeTime the time constant in which that is given back: a
	// rollout takes minutes. Without it, hosts that a rollout has touched and hosts
	// that it will touch would share what is enough for one of them.
	surge     = 0.5
	surgeTime = 15 * time.Minute
	// rateWindow is the time constant that polls are measured with, strayMemory, in
	// objectives, that of learning how many come whatever hosts are told. minRoom
	// is what those leave of the budget at least: hosts that don't listen shouldn't
	// silence all others.
	rateWindow  = time.Minute
	strayMemory = 3
	minRoom     = 0.1

	// RestartWindow is how long a server is taken for freshly restarted: as long as
	// agents back off, twice.
	RestartWindow = 2 * MaxBackoff

	// MinRetry and MaxRetry bound what a refused client is told.
	MinRetry = time.Second
	MaxRetry = 5 * time.Minute
	// retryShare is the part of the budget that retries may take, so that clients
	// that were not refused still get in.
	retryShare = 0.5

	// MinInterval and MaxInterval bound what a server can ask of an agent, and
	// DefaultInterval is for one that asks for nothing.
	MinInterval     = time.Second
	MaxInterval     = time.Hour
	DefaultInterval = 30 * time.Second
	// Jitter is the part of an interval by which each wait is made shorter or
	// longer, at random.
	Jitter = 0.1

	// MinBackoff, MaxBackoff and backoffGrowth say how long an agent waits after an
	// error at most: long enough, soon, for a fleet that finds no server to be a
	// load that it bears when it returns; short enough for people who wait.
	MinBackoff    = time.Second
	MaxBackoff    = 2 * time.Minute
	backoffGrowth = 1.6
	// HoldGap is the least time from one held poll to the next: of changes that
	// follow each other faster, a poll brings several.
	HoldGap = 200 * time.Millisecond

	// HealthyTime is how long polls have to succeed until errors are forgotten: a
	// server that answers every other time is not well.
	HealthyTime = 2 * time.Minute

	// Nap is the longest that an agent sleeps without looking at the clock: how
	// late it can notice that its machine slept.
	Nap = 15 * time.Second
	// WakeSlack is how far the clocks may be apart before the machine is taken to
	// have slept, or its clock to have been set. WakeWindow is the time over which
	// machines that wake together come back.
	WakeSlack  = 10 * time.Second
	WakeWindow = 30 * time.Second
)
