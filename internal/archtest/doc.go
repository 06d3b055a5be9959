// Package archtest holds the repository to its own rules: who may import whom (order.txt, from which the rest follows), the sizes of
// files and functions, what errors may say, which modules are used and why, and that documents name what exists. It has only
// tests; `make check` runs them.
package archtest
