package cri

import (
	"math"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

func TestValuesThatAnEnumerationDoesNotHaveAreRefusedByName(t *testing.T) {
	config := func(ns runtimeapi.NamespaceMode) *runtimeapi.PodSandboxConfig {
		return &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Network: ns},
		}}}
	}
	for name, c := range map[string]struct {
		request any
		field   string
	}{
		"one deep inside":     {&runtimeapi.RunPodSandboxRequest{Config: config(77)}, "config.linux.security_context.namespace_options.network"},
		"one below zero":      {&runtimeapi.RunPodSandboxRequest{Config: config(-1)}, "config.linux.security_context.namespace_options.network"},
		"one of a list":       {&runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{PortMappings: []*runtimeapi.PortMapping{{}, {Protocol: math.MaxInt32}}}}, "config.port_mappings[1].protocol"},
		"all known":           {&runtimeapi.RunPodSandboxRequest{Config: config(runtimeapi.NamespaceMode_TARGET)}, ""},
		"a message with none": {&runtimeapi.VersionRequest{Version: "x"}, ""},
		"nothing":             {nil, ""},
	} {
		err := checkRequest(c.request)
		if c.field == "" && err != nil || c.field != "" && (!errs.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), c.field+": ")) {
			t.Errorf("%s: %v, want word of %q", name, err, c.field)
		}
	}
}

func TestALongErrorKeepsItsBeginningAndItsCause(t *testing.T) {
	err := toStatus(errs.New(errs.InvalidArgument, "pull %s: bad name", strings.Repeat("💥", 100_000)))
	text := status.Convert(err).Message()
	if len(text) > maxText+10 || !strings.HasPrefix(text, "pull 💥") || !strings.HasSuffix(text, "💥: bad name") || status.Code(err) != codes.InvalidArgument {
		t.Errorf("%d bytes: %.20s…%s", len(text), text, text[len(text)-20:])
	}
	if short := status.Convert(toStatus(errs.New(errs.NotFound, "gone"))).Message(); short != "gone" {
		t.Errorf("a short one became %q", short)
	}
}
