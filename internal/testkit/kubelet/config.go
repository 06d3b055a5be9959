package kubelet

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"syscall"
)

// configuration is what differs from a kubelet's defaults: places, ports, what a machine for tests may lack, and what a test is too short for.
func (k *Kubelet) configuration() ([]byte, error) {
	// Raising its own limit needs CAP_SYS_RESOURCE, as lowering its oom_score_adj does; a machine for tests may lack it.
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return nil, err
	}
	config := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": k.Endpoint,
		"staticPodPath":            k.StaticPods, "podLogsDir": k.PodLogs, "volumePluginDir": filepath.Join(k.Dir, "plugins"),
		"address": k.Address, "port": k.Port, "healthzPort": k.HealthzPort,
		"authentication": map[string]any{"anonymous": map[string]any{"enabled": true}, "webhook": map[string]any{"enabled": false}},
		"authorization":  map[string]any{"mode": "AlwaysAllow"},
		"cgroupRoot":     k.Cgroup, "enforceNodeAllocatable": []string{}, "failCgroupV1": false, "failSwapOn": false,
		"oomScoreAdj": 0, "maxOpenFiles": min(files.Max, 1_000_000),
		// A machine on which tests run may be full; what is evicted then is not the test's to find.
		"evictionHard":                map[string]string{"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
		"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		"makeIPTablesUtilChains": false, "seccompDefault": true,
		// Manifests are noticed by inotify, containers' ends by their events or each second; this is for what is only looked at now and then.
		"fileCheckFrequency": "1s", "syncFrequency": "5s",
	}
	maps.Copy(config, k.Config)
	return json.MarshalIndent(config, "", "  ")
}
