// Package pace answers: when does an agent poll next, and when does it retry?
//
// It is arithmetic alone: the time and randomness come in, durations go out. The
// server has a Fleet, which turns the changes that it sees into a Hint for each
// poll; each agent has a Schedule, which bounds and jitters hints and backs off
// after errors. A poll and a commit take constant time; a set takes 24 bytes, a
// host one.
//
// # The problem
//
// A server takes so many polls a second. How should hosts share them, so that
// changes wait as briefly as possible, and none for longer than an objective?
//
// # The choice
//
// A host whose sets change λ times a second, and that polls every T, makes its
// changes wait λT/2 seconds in each second, and costs 1/T polls. With a price of c
// seconds of waiting for a poll, λT/2 + c/T is least at T = √(2c/λ): the square
// root of the economic order quantity (Harris, "How Many Parts to Make at Once",
// 1913), and what Cho and Garcia-Molina weigh freshness with ("Synchronizing a
// database to improve freshness", SIGMOD 2000; they show too that polling in
// proportion to λ is worse than polling all alike, by another measure of
// freshness). Weights of sets would multiply λ; all weigh the same here.
//
// λ is not given, and not constant:
//
//   - The lasting rate of a set is its decaying count of changes over the time that
//     was observed, drawn towards the fleet's mean while there is little to go by.
//   - Changes come in bursts. A change raises what is expected of the next minute,
//     which fades: a self-exciting process (Hawkes, 1971). By how much is learned
//     from all sets' changes, as the share that follow others (by the expectation
//     step of Veen and Schoenberg's estimator, 2008), so that a fleet without
//     bursts spends nothing on them.
//   - With a λ that fades, √(2c/λ) is too eager just after a change. The host
//     waits until the delays that its changes are expected to suffer cost as much
//     as a poll, which for a constant λ is the same.
//
// T is at least MinHint and at most the objective, since √ alone leaves hosts
// that hardly ever change waiting for hours. So p99 and the objective hold by
// construction, give or take the agent's jitter.
//
// The price is what makes the fleet fit the budget. The Fleet keeps a census: how
// many hosts there are of each class of rates, which fades, and which each poll
// renews by the time that its host waits next. So hosts that come, go and restart
// need no list. Every few seconds it computes the price at which the census makes
// as many polls as the budget has room for, and lets the price in force follow
// within minutes: when much changes at once, as in a rollout, polls are worth more
// than before and after, so that the fleet may surge half above its budget for that
// long, no further, and keeps it in the long run. No price is below that of a poll's
// CPU, so that small fleets don't poll for nothing. If even the objective for all is
// too much, all intervals grow beyond it together, with the reason "budget", and
// Fleet.Load says how far. Polls that hints don't govern (agents with an interval
// of their own) are measured, and make the others give way.
//
// The server restarted, or a host is new: its first hint is drawn at random over
// the time in which the whole fleet may poll once, so that those who arrive
// together part.
//
// # What was rejected
//
//   - Backing off exponentially while nothing changes, and resetting upon a change:
//     it learns of a burst, but not who changes often, and forgets what it knew.
//   - A price that follows the measured polls (a feedback controller): it must be
//     slower than the longest interval, and takes a quarter of an hour after a restart.
//     Feedback is left with what the census can't know.
//   - A list of the fleet with what each host was promised: it has to find out who
//     is gone.
//   - A lasting rate without the changes that follow others: right for the first
//     change of a burst, but those that follow wait with it.
//
// What no policy can do: if all hosts change alike and at times that nothing
// announces, a fixed interval is as good as any.
//
// 'espalier bench pacing' compares all of this; docs/performance.md has figures.
package pace
