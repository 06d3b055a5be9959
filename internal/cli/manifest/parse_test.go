package manifest

import (
	"strings"
	"testing"

	"fermata/internal/errs"
)

func TestQuantities(t *testing.T) {
	for _, c := range []struct {
		text string
		want int64 // thousandths
	}{
		{"0", 0}, {"1", 1000}, {"+1", 1000}, {"0.5", 500}, {".5", 500}, {"250m", 250}, {"1.5", 1500}, {"0.1m", 1}, {"1n", 1}, {"3u", 1},
		{"1k", 1e6}, {"1Ki", 1024e3}, {"64M", 64e9}, {"1.5Gi", 1536 * 1 << 20 * 1000}, {"1e3", 1e6}, {"1E3", 1e6}, {"25e-1", 2500},
	} {
		got, err := parseQuantity(c.text)
		if err != nil || got != c.want {
			t.Errorf("%q = %d, %v; want %d", c.text, got, err, c.want)
		}
	}
	for _, text := range []string{"", "x", "1 Gi", "1GB", "-1", "1e", "1e999", "1e3Ki", "0x10", "1/2", "1_000", "inf", "1.2.3", "1E" /* in thousandths it does not fit */, strings.Repeat("9", 99)} {
		if got, err := parseQuantity(text); err == nil {
			t.Errorf("%q was taken as %d", text, got)
		}
	}
	if got := (Quantity{Milli: 1001}).Whole(); got != 2 {
		t.Errorf("1001 thousandths are %d, want 2: rounded up", got)
	}
}

func TestExpansionIsKubernetess(t *testing.T) {
	known := map[string]string{"A": "1", "B": "$(A)", "EMPTY": ""}
	lookup := func(name string) (string, bool) { v, ok := known[name]; return v, ok }
	for _, c := range []struct{ name, in, want string }{
		{"a known name is replaced", "x$(A)y$(A)", "x1y1"},
		{"an empty value is a value", "x$(EMPTY)y", "xy"},
		{"an unknown name stays", "$(NONE)", "$(NONE)"},
		{"two dollars are one", "$$(A)", "$(A)"},
		{"three dollars are one and a reference", "$$$(A)", "$1"},
		{"what was put in is not read again", "$(B)", "$(A)"},
		{"a dollar before anything else stays", "$A $", "$A $"},
		{"a reference without its end stays", "$(A", "$(A"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := expand(c.in, lookup); got != c.want {
				t.Errorf("expand(%q) = %q, want %q", c.in, got, c.want)
			}
		})
	}
}

func TestOnlyOneDocumentIsTaken(t *testing.T) {
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: i}]}\n"
	for _, c := range []struct {
		name, text string
		ok         bool
	}{
		{"one", pod, true},
		{"one after a separator and a comment", "# a pod\n---\n" + pod + "---\n# the end\n", true},
		{"JSON", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c","image":"i"}]}}`, true},
		{"two", pod + "---\n" + pod, false},
		{"none", "# nothing\n", false},
		{"a list", "- a\n", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.text))
			if (err == nil) != c.ok || err != nil && !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestRunAsNonRootIsKept(t *testing.T) {
	yes, zero, user := true, int64(0), int64(7)
	for _, c := range []struct {
		name      string
		security  ContainerSecurity
		imageUser string
		refused   bool
	}{
		{"not asked for", ContainerSecurity{}, "", false},
		{"the manifest's user is root", ContainerSecurity{RunAsNonRoot: &yes, RunAsUser: &zero}, "7", true},
		{"the manifest's user is not root", ContainerSecurity{RunAsNonRoot: &yes, RunAsUser: &user}, "0", false},
		{"the image's user is root by default", ContainerSecurity{RunAsNonRoot: &yes}, "", true},
		{"the image's user is root by number", ContainerSecurity{RunAsNonRoot: &yes}, "0", true},
		{"the image's user is a name", ContainerSecurity{RunAsNonRoot: &yes}, "www", true},
		{"the image's user is another number", ContainerSecurity{RunAsNonRoot: &yes}, "33", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := &Pod{Spec: Spec{SecurityContext: &PodSecurity{}, Containers: []Container{{Name: "c", SecurityContext: &c.security}}}}
			if why := RunsAsRoot(pod, "c", c.imageUser); (why != "") != c.refused {
				t.Errorf("RunsAsRoot = %q", why)
			}
		})
	}
}

// FuzzParse holds that no text makes the parser crash, and that what it takes can be converted.
func FuzzParse(f *testing.F) {
	f.Add("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: i, resources: {limits: {cpu: 1m}}}]}\n")
	f.Fuzz(func(t *testing.T, text string) {
		pod, err := Parse([]byte(text))
		if err != nil {
			if !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("%q: kind %v", text, errs.KindOf(err))
			}
			return
		}
		if plan := Convert(pod, facts); len(plan.Containers) == 0 || plan.Sandbox.Metadata.Name == "" {
			t.Errorf("%q: an empty plan", text)
		}
	})
}

func FuzzQuantity(f *testing.F) {
	f.Add("1.5Gi")
	f.Fuzz(func(t *testing.T, text string) {
		if milli, err := parseQuantity(text); err == nil && milli < 0 {
			t.Errorf("%q = %d", text, milli)
		}
	})
}
