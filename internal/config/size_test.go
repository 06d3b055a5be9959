package config_test

import (
	"testing"

	"fermata/internal/config"
)

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "0": 0, "500": 500, "100Ki": 100 << 10, "10Mi": 10 << 20, "3Gi": 3 << 30} {
		if got, err := config.ParseSize(text); err != nil || got != want {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"-1", "1.5Mi", "10M", "Mi", "10 Mi", "99999999999Gi"} {
		if got, err := config.ParseSize(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}
