package pattern

// Axes are the values that each figure of a point takes; an empty one stands for
// that of the base point.
type Axes struct {
	Objects, ValueBytes, Agents []int
	EverySeconds                []float64
	Changes                     []int
	Clustered                   []bool
	Loss, DelayMillis           []float64
	AgentMbit, ServerMbit       []float64
	Faults                      []Faults
}

// Product returns a point for each combination of the values, the last axis
// changing fastest; nil if there are more than MaxRuns.
func (a Axes) Product() []Point {
	grid := []Point{BasePoint()}
	grid = along(grid, a.Objects, func(p *Point, v int) { p.Objects = v })
	grid = along(grid, a.ValueBytes, func(p *Point, v int) { p.ValueBytes = v })
	grid = along(grid, a.Agents, func(p *Point, v int) { p.Agents = v })
	grid = along(grid, a.EverySeconds, func(p *Point, v float64) { p.EverySeconds = v })
	grid = along(grid, a.Changes, func(p *Point, v int) { p.Changes = v })
	grid = along(grid, a.Clustered, func(p *Point, v bool) { p.Clustered = v })
	grid = along(grid, a.Loss, func(p *Point, v float64) { p.Loss = v })
	grid = along(grid, a.DelayMillis, func(p *Point, v float64) { p.DelayMillis = v })
	grid = along(grid, a.AgentMbit, func(p *Point, v float64) { p.AgentMbit = v })
	grid = along(grid, a.ServerMbit, func(p *Point, v float64) { p.ServerMbit = v })
	return along(grid, a.Faults, func(p *Point, v Faults) { p.Faults = v })
}

// along returns each point with each of the values.
func along[V any](grid []Point, values []V, set func(*Point, V)) []Point {
	if len(values) == 0 {
		return grid
	}
	if len(grid) == 0 || len(grid)*len(values) > MaxRuns {
		return nil
	}
	var all []Point
	for _, p := range grid {
		for _, v := range values {
			set(&p, v)
			all = append(all, p)
		}
	}
	return all
}
