package endpoint

import (
	"net/netip"
	"strings"
	"testing"

	"fermata/internal/errs"
)

func TestCheckID(t *testing.T) {
	for id, ok := range map[string]bool{
		strings.Repeat("a1", 32): true, "pod-1_x.y": true,
		"": false, ".": false, "..": false, ".hidden": false, "a/b": false, "a b": false, "ä": false, strings.Repeat("a", 201): false, "a\x00": false,
	} {
		if err := CheckID(id); (err == nil) != ok || err != nil && !errs.Is(err, errs.InvalidArgument) {
			t.Errorf("CheckID(%q) = %v, want it accepted: %v", id, err, ok)
		}
	}
}

func TestPortMappingInWords(t *testing.T) {
	for want, m := range map[string]PortMapping{
		"*:8080->80/tcp":         {Protocol: "tcp", HostPort: 8080, ContainerPort: 80},
		"127.0.0.1:1->2/udp":     {Protocol: "udp", HostPort: 1, ContainerPort: 2, HostIP: netip.MustParseAddr("127.0.0.1")},
		"[2001:db8::1]:1->2/tcp": {Protocol: "tcp", HostPort: 1, ContainerPort: 2, HostIP: netip.MustParseAddr("2001:db8::1")},
	} {
		if got := m.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
