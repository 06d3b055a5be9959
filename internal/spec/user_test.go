package spec_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
	"fermata/internal/spec"
)

const passwd = `root:x:0:0:root:/root:/bin/sh
bin:x:1:1::/bin:
broken line
app:x:1000:1001:App:/home/app:/bin/sh
short:x:7:8
1234:x:0:0::/digits:
huge:x:4294967296:0::/:
nobody:x:65534:65534:nobody:/:/bin/false`

const group = `root:x:0:
wheel:x:10:root,app
short
video:x:44:app
other:x:45:apple
app:x:1001:
huge:x:99999999999:app
bad:x:nan:app
`

func id(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }

func TestResolveUser(t *testing.T) {
	type sc = runtimeapi.LinuxContainerSecurityContext
	for _, c := range []struct {
		name  string
		sc    *sc
		image string
		want  string // "uid gid [groups] home username", or the error's kind
	}{
		{"nothing said is root", nil, "", "0 0 [0 10] /root root"},
		{"an image's number that is known brings group, home and memberships", nil, "1000", "1000 1001 [1001 10 44] /home/app app"},
		{"an image's number that is not known has group 0", nil, "4321", "4321 0 [0] / "},
		{"an image's name", nil, "app", "1000 1001 [1001 10 44] /home/app app"},
		{"an image's name and group", nil, "app:video", "1000 44 [44 10] /home/app app"},
		{"an image's numbers", nil, "5:6", "5 6 [6] / "},
		{"a line that lacks its end will do", nil, "short", "7 8 [8] / short"},
		{"digits are never a name (CVE-2016-3697)", nil, "1234", "1234 0 [0] / "},
		{"the greatest id", nil, "4294967294", "4294967294 0 [0] / "},
		{"no id: the kernel's \"leave alone\"", nil, "4294967295", "invalid argument"},
		{"an id that would wrap to root (CVE-2024-40635)", nil, "4294967296", "invalid argument"},
		{"an id above 2^31 is exact", nil, "2147483648:0", "2147483648 0 [0] / "},
		{"an empty group", nil, "0:", "invalid argument"},
		{"an empty user", nil, ":0", "invalid argument"},
		{"a sign makes it a name", nil, "+1", "invalid argument"},
		{"a negative number", nil, "-1", "invalid argument"},
		{"a name that is not there", nil, "nemo", "invalid argument"},
		{"a group that is not there", nil, "app:nemo", "invalid argument"},
		{"a name whose id does not fit", nil, "huge", "invalid argument"},
		{"a group whose id does not fit", nil, "app:huge", "invalid argument"},
		{"run_as_user wins over the image and its group", &sc{RunAsUser: id(1000)}, "5:6", "1000 1001 [1001 10 44] /home/app app"},
		{"run_as_user with run_as_group", &sc{RunAsUser: id(1000), RunAsGroup: id(44)}, "", "1000 44 [44 10] /home/app app"},
		{"run_as_username", &sc{RunAsUsername: "app"}, "", "1000 1001 [1001 10 44] /home/app app"},
		{"run_as_username that is not there", &sc{RunAsUsername: "nemo"}, "", "invalid argument"},
		{"run_as_group alone", &sc{RunAsGroup: id(1)}, "5", "invalid argument"},
		{"both ways to say who", &sc{RunAsUser: id(1), RunAsUsername: "app"}, "", "invalid argument"},
		{"run_as_user below zero", &sc{RunAsUser: id(-1)}, "", "invalid argument"},
		{"run_as_user too great", &sc{RunAsUser: id(1 << 32)}, "", "invalid argument"},
		{"run_as_group too great", &sc{RunAsUser: id(1), RunAsGroup: id(1 << 32)}, "", "invalid argument"},
		{"supplemental groups come on top, once each", &sc{RunAsUser: id(1000), SupplementalGroups: []int64{60000, 44, 1001}}, "", "1000 1001 [1001 10 44 60000] /home/app app"},
		{"strictly, they are all there is beside the primary one", &sc{RunAsUser: id(1000), SupplementalGroups: []int64{60000, 60000},
			SupplementalGroupsPolicy: runtimeapi.SupplementalGroupsPolicy_Strict}, "", "1000 1001 [1001 60000] /home/app app"},
		{"a supplemental group below zero", &sc{SupplementalGroups: []int64{-1}}, "", "invalid argument"},
		{"a policy nobody knows", &sc{SupplementalGroupsPolicy: 7}, "", "invalid argument"},
		{"more groups than the kernel takes", &sc{SupplementalGroups: many(65537)}, "", "invalid argument"},
	} {
		t.Run(c.name, func(t *testing.T) {
			i, err := spec.ResolveUser(c.sc, c.image, []byte(passwd), []byte(group))
			got := fmt.Sprint(i.UID, i.GID, i.Groups, " ", i.Home, " ", i.Username)
			got = strings.ReplaceAll(strings.ReplaceAll(got, "[", " ["), "  ", " ")
			if err != nil {
				got = errs.KindOf(err).String()
			}
			if strings.TrimSpace(got) != strings.TrimSpace(strings.ReplaceAll(c.want, "  ", " ")) {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func many(n int) []int64 {
	out := make([]int64, n)
	for i := range out {
		out[i] = int64(i) + 100
	}
	return out
}

func FuzzResolveUser(f *testing.F) {
	f.Add("app:video", passwd, group)
	f.Add("0", "", "")
	f.Add(":", ":::::\n", "::\n:::,")
	f.Fuzz(func(t *testing.T, user, passwd, group string) {
		i, err := spec.ResolveUser(nil, user, []byte(passwd), []byte(group))
		if err != nil {
			if !errs.Is(err, errs.InvalidArgument) {
				t.Errorf("kind of %v", err)
			}
			return
		}
		if i.UID == 1<<32-1 || i.GID == 1<<32-1 || len(i.Groups) == 0 || i.Groups[0] != i.GID || i.Home == "" || strings.Contains(i.Home, "\n") {
			t.Errorf("%+v", i)
		}
		if sorted := slices.Sorted(slices.Values(i.Groups)); len(slices.Compact(sorted)) != len(i.Groups) {
			t.Errorf("a group twice: %v", i.Groups)
		}
	})
}
