package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fermata/internal/testkit/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestTheRunIsHeldAgainstTheList(t *testing.T) {
	const list = "Streaming | comes later\nAppArmor | no LSM\n# a comment\n"
	for _, tt := range []struct {
		name    string
		specs   []spec
		focused bool
		ok      bool
		says    string
	}{
		{"all as expected", []spec{{name: "A", state: "passed"}, {name: "Streaming x", state: "failed"}, {name: "AppArmor", state: "skipped"}}, false, true, "1 passed, 2 known not to"},
		{"an unlisted spec fails", []spec{{name: "A", state: "failed", message: "why"}, {name: "Streaming", state: "failed"}, {name: "AppArmor", state: "skipped"}}, false, false, "NOT PASSED: A: failed"},
		{"an unlisted spec is skipped", []spec{{name: "A", state: "skipped"}, {name: "Streaming", state: "failed"}, {name: "AppArmor", state: "skipped"}}, false, false, "NOT PASSED: A: skipped"},
		{"a listed spec passes", []spec{{name: "Streaming", state: "passed"}, {name: "AppArmor", state: "skipped"}}, false, false, "LIST IS WRONG: Streaming: passes"},
		{"a listed name is no spec's", []spec{{name: "AppArmor", state: "skipped"}}, false, false, "no spec is named Streaming"},
		{"with a focus a listed name need not be met", []spec{{name: "A", state: "passed"}}, true, true, "1 passed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			known, err := parseList("list", list)
			if err != nil {
				t.Fatal(err)
			}
			v := judge(tt.specs, known, tt.focused)
			if v.ok() != tt.ok || !strings.Contains(v.String(), tt.says) {
				t.Errorf("ok %v, want %v; want %q in:\n%s", v.ok(), tt.ok, tt.says, v)
			}
		})
	}
}

func TestALineWithoutReasonIsRefused(t *testing.T) {
	for _, line := range []string{"Streaming", "Streaming | ", "( | open"} {
		if _, err := parseList("list", line); err == nil {
			t.Errorf("%q was taken", line)
		}
	}
}

func TestASkipOfItsOwnIsToldFromOneByFocus(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	err := os.WriteFile(path, []byte(`[{"SpecReports": [
		{"ContainerHierarchyTexts": ["[k8s.io] A"], "LeafNodeText": "b", "LeafNodeType": "It", "State": "passed", "RunTime": 2000000000},
		{"ContainerHierarchyTexts": ["[k8s.io] A"], "LeafNodeText": "c", "LeafNodeType": "It", "State": "skipped"},
		{"ContainerHierarchyTexts": ["[k8s.io] A"], "LeafNodeText": "d", "LeafNodeType": "It", "State": "skipped", "Failure": {"Message": "no feature"}},
		{"LeafNodeText": "", "LeafNodeType": "BeforeSuite", "State": "passed"},
		{"LeafNodeText": "", "LeafNodeType": "AfterSuite", "State": "failed", "Failure": {"Message": "down"}}]}]`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	specs, err := readReport(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range specs {
		got = append(got, s.name+" "+s.state)
	}
	if want := "[k8s.io] A b passed; [k8s.io] A d skipped; AfterSuite  failed"; strings.Join(got, "; ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "; "), want)
	}
}
