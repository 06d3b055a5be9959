package cluster

import "testing"

func (w *world) configVolumes(t *testing.T) {
	w.apply(t, `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: red, shape: round}
---
apiVersion: v1
kind: Secret
metadata: {name: word}
stringData: {word: hush}
---
`+pod("reader", "b", `
  - name: main
    image: BUSYBOX
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"]
    env: [{name: WORD, valueFrom: {secretKeyRef: {name: word, key: word}}}]
    securityContext: {runAsUser: 1000, readOnlyRootFilesystem: true}
    volumeMounts:
    - {name: settings, mountPath: /settings}
    - {name: word, mountPath: /word, readOnly: true}
    - {name: settings, mountPath: /etc/shape, subPath: shape}
    - {name: all, mountPath: /all}
  securityContext: {fsGroup: 2000}
  volumes:
  - {name: settings, configMap: {name: settings}}
  - {name: word, secret: {secretName: word, defaultMode: 0440}}
  - name: all
    projected:
      sources:
      - configMap: {name: settings, items: [{key: shape, path: settings/shape}]}
      - secret: {name: word}
      - downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
      - serviceAccountToken: {path: token, expirationSeconds: 600}
`))
	w.ready(t, "pod/reader")
	const look = "cat /settings/colour /word/word /etc/shape; echo $WORD; stat -L -c '%a %g' /word/word; stat -f -L -c %T /word/word; touch /word/x 2>&1 | grep -o 'Read-only.*'"
	if got, want := w.kubectl(t, "exec", "reader", "--", "sh", "-c", look), "redhushroundhush\n440 2000\ntmpfs\nRead-only file system\n"; got != want {
		t.Errorf("the pod finds %q, want %q", got, want)
	}
	const projected = "cat /all/settings/shape /all/word /all/name; cut -d. -f1 /all/token | base64 -d 2>/dev/null | grep -o ES256"
	if got, want := w.kubectl(t, "exec", "reader", "--", "sh", "-c", projected), "roundhushreaderES256\n"; got != want {
		t.Errorf("in the projected volume the pod finds %q, want %q", got, want)
	}
	w.kubectl(t, "patch", "configmap", "settings", "-p", `{"data":{"colour":"blue"}}`)
	w.kubectl(t, "exec", "reader", "--", "timeout", "90", "sh", "-c", "until grep -q blue /settings/colour; do sleep 0.1; done")
	w.kubectl(t, "delete", "pod", "reader", "--wait=false")
}
