package config

import (
	"errors"
	"strconv"
	"strings"
)

// ParseSize reads a number of bytes: digits, with Ki, Mi or Gi after them for 2^10, 2^20 or 2^30 of them. "" is 0.
func ParseSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	digits, shift := s, 0
	for unit, by := range map[string]int{"Ki": 10, "Mi": 20, "Gi": 30} {
		if before, ok := strings.CutSuffix(s, unit); ok {
			digits, shift = before, by
		}
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return 0, errors.New(`a size reads as 500, 100Ki, 10Mi or 1Gi`)
	}
	return int64(n) << shift, nil
}
