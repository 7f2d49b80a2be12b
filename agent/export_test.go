package agent

import "espalier/internal/follow"

// Follower returns what decides for the agent.
func (a *Agent) Follower() *follow.Follower { return a.follower }
