package registry

import (
	"reflect"
	"testing"
)

func TestChallengesAreReadAsRegistriesWriteThem(t *testing.T) {
	for header, want := range map[string][]challenge{
		`Bearer realm="https://a/token",service="s",scope="repository:x:pull"`: {{"bearer", map[string]string{"realm": "https://a/token", "service": "s", "scope": "repository:x:pull"}}},
		`Basic realm="a \"quoted\" one, with comma"`:                           {{"basic", map[string]string{"realm": `a "quoted" one, with comma`}}},
		`Negotiate, Basic realm=x, Bearer realm = "y"`:                         {{"negotiate", map[string]string{}}, {"basic", map[string]string{"realm": "x"}}, {"bearer", map[string]string{"realm": "y"}}},
		`bearer REALM=https://a/token`:                                         {{"bearer", map[string]string{"realm": "https://a/token"}}},
		`Bearer realm="unfinished`:                                             {{"bearer", map[string]string{}}},
		``:                                                                     nil,
		`"`:                                                                    nil,
	} {
		if got := parseChallenges([]string{header}); !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %v\nwant %v", header, got, want)
		}
	}
}

func FuzzChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://a/token",service="s", Basic realm=x`)
	f.Fuzz(func(t *testing.T, header string) {
		for _, c := range parseChallenges([]string{header}) {
			if c.scheme == "" {
				t.Fatalf("%q gives a challenge without scheme", header)
			}
		}
	})
}
