// Package suggest finds the word somebody probably meant: a mistyped key, flag or command. It knows no vocabulary of its own;
// the caller passes the words that exist.
package suggest

import "strings"

// Nearest returns the candidate closest to word, or "" when none is close enough to be a likely slip: at most a third of the
// word's letters (and at least one) inserted, left out, changed or swapped. One that begins the other counts as one slip. Ties
// go to the earlier candidate.
func Nearest(word string, candidates []string) string {
	best, found := max(1, len(word)/3)+1, ""
	for _, c := range candidates {
		d := distance(fold(word), fold(c))
		if d > 1 && begins(fold(word), fold(c)) {
			d = 1
		}
		if d < best {
			best, found = d, c
		}
	}
	return found
}

// DidYouMean returns ` (did you mean "x"?)` with the nearest candidate, or "".
func DidYouMean(word string, candidates []string) string {
	if n := Nearest(word, candidates); n != "" {
		return ` (did you mean "` + n + `"?)`
	}
	return ""
}

// begins reports whether word is how the candidate begins, or the candidate how word begins; short ones begin much by accident.
func begins(word, candidate string) bool {
	return len(word) >= 3 && strings.HasPrefix(candidate, word) || len(candidate) >= 4 && strings.HasPrefix(word, candidate)
}

// fold makes the spellings people mix up equal: case, and the dash of flags and the underscore of files.
func fold(s string) string {
	return strings.ReplaceAll(strings.ToLower(s), "_", "-")
}

// distance is the optimal string alignment distance, in bytes.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
