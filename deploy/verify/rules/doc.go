// Package rules checks the repository itself: who may import whom, and that
// every dependency is there for a reason that is written down. It has tests
// only; `make verify` runs them.
package rules
