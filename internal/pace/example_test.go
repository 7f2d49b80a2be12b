package pace_test

import (
	"fmt"
	"math/rand/v2"
	"time"

	"espalier/internal/pace"
)

// A server keeps a Fleet, and a Set and a Host for each of those; an agent keeps a
// Schedule.
func Example() {
	now := time.Unix(1_000_000_000, 0)
	fleet := pace.NewFleet(pace.Options{Objective: 2 * time.Minute, Budget: 10, Hosts: 600}, now, rand.New(rand.NewPCG(1, 2)))
	agent := pace.NewSchedule(0, rand.New(rand.NewPCG(3, 4)))
	var set pace.Set
	var host pace.Host
	poll := func() {
		hint := fleet.Polled(&host, []*pace.Set{&set}, now)
		agent.Succeeded(hint.After, now)
		fmt.Printf("%s: poll in %v\n", hint.Reason, hint.After.Round(time.Second))
	}

	fleet.Recall(&set, 3, 24*time.Hour, now) // three commits in the last day, says the journal
	agent.First("web-01", now)
	poll()
	now = agent.Due()
	poll()
	now = agent.Due()
	fleet.Changed(&set, now)
	poll()
	// Output:
	// restart: poll in 1m21s
	// objective: poll in 2m0s
	// burst: poll in 11s
}
