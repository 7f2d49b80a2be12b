// Package apply answers what a host does to be, and to stay, what its sets say:
// which objects are applied next, in which order, by which driver, and what is
// to wait. What is to do is the difference between two trees, that of what is
// desired and that of what was applied, so that it costs what the changes cost.
package apply
