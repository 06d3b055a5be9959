package builtin

import (
	"crypto/sha256"
	"encoding/base32"
	"net"
	"net/netip"
	"strings"
)

// Links of fermata begin with "fm", then four characters that stand for the instance, then nine for the sandbox: 15, the most a name can have.
const (
	linkMark     = "fm"
	instanceLen  = 4
	sandboxLen   = 9
	aliasPattern = "fermata:" // + instance + ":" + sandbox
)

var lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func digest(text string, n int) string {
	sum := sha256.Sum256([]byte(text))
	return lower.EncodeToString(sum[:])[:n]
}

// linkPrefix begins the name of every host interface of an instance.
func linkPrefix(instance string) string { return linkMark + digest(instance, instanceLen) }

// linkName is the host interface of a sandbox.
func linkName(instance, sandbox string) string {
	return linkPrefix(instance) + digest(instance+"/"+sandbox, sandboxLen)
}

// alias says in full what linkName can only hint at.
func alias(instance, sandbox string) string {
	a := aliasPattern + instance + ":" + sandbox
	return a[:min(len(a), 255)] // IFALIASZ
}

// ours says whether a link is a host interface of the instance: the name is a hash and could be anybody's.
func ours(instance, name, alias string) bool {
	return strings.HasPrefix(name, linkPrefix(instance)) && len(name) == len(linkMark)+instanceLen+sandboxLen &&
		(alias == "" || strings.HasPrefix(alias, aliasPattern+instance+":")) // none: a crash came between creating and naming
}

// bridgeMAC is fixed, so that pods' neighbour tables stay right when the bridge is made anew.
func bridgeMAC(instance, bridge string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(instance + "/" + bridge))
	return net.HardwareAddr{0x0a, 0x57, sum[0], sum[1], sum[2], sum[3]}
}

// Hardware addresses follow the IP address: one that is given again has the one that its peers may still remember.
// 0a: locally administered; 58 as in kubenet and OVN for the pod, 59 for the host's end.
func podMAC(ip netip.Addr) net.HardwareAddr  { return macOf(0x58, ip) }
func hostMAC(ip netip.Addr) net.HardwareAddr { return macOf(0x59, ip) }

func macOf(kind byte, ip netip.Addr) net.HardwareAddr {
	b := ip.AsSlice()
	return append(net.HardwareAddr{0x0a, kind}, b[len(b)-4:]...)
}
