// Package lines is what package fault's writers write and its tests expect in their logs: lines whose number says what they look like, so that one that is
// missing, twice there or torn shows.
package lines

import "strconv"

// long is how often a line is longer than what a log's entry holds.
const long, longSize = 5003, 40_000

// Append appends the line of a number, from 0, with its newline: the number, and as many letters as follow from it.
func Append(b []byte, n int) []byte {
	b = strconv.AppendInt(b, int64(n), 10)
	b = append(b, ' ')
	size := n * 7919 % 61
	if n%long == long-1 {
		size = longSize
	}
	for range size {
		b = append(b, 'a'+byte(n%26))
	}
	return append(b, '\n')
}

// Room is enough for any line.
const Room = longSize + 32
