package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"fermata/internal/errs"
)

// Host is one place to ask for the images of a registry: the registry itself or a mirror of it.
type Host struct {
	// Base is scheme, host and path up to and with "/v2".
	Base url.URL
	// Resolve says whether it may be asked what a tag means, Pull whether it may be asked for something by digest.
	Resolve, Pull bool
	// Header goes with every request to it, and to no other host.
	Header http.Header
	// TLS is nil for the defaults.
	TLS *tls.Config
	// DialTimeout is 0 for the default.
	DialTimeout time.Duration
	// Mirror is false for the registry itself.
	Mirror bool
}

const maxConfig = 1 << 20 // of one hosts.toml or certificate file

// hostFields is what hosts.toml says of the server (at the top) and of each mirror.
type hostFields struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   bool           `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

type hostsFile struct {
	Server string `toml:"server"`
	hostFields
	Host map[string]hostFields `toml:"host"`
}

// Hosts returns where to ask for images of a registry, in order: the mirrors that dir says, then the registry. dir is a directory, or several separated by
// colons, as containerd's config_path: <dir>/<host:port>/hosts.toml, else <dir>/_default/hosts.toml. "" means no configuration.
// The files are read at each call. Unknown keys are ignored, as containerd does.
func Hosts(dir, registry string) ([]Host, error) {
	folder := configFolder(dir, registry)
	if folder == "" {
		h, err := upstream(registry)
		return []Host{h}, err
	}
	name := filepath.Join(folder, "hosts.toml")
	text, err := readBounded(name)
	if errors.Is(err, fs.ErrNotExist) {
		return dockerForm(folder, registry)
	}
	if err != nil {
		return nil, err
	}
	hosts, err := parseHosts(text, folder, registry)
	if err != nil {
		return nil, errs.New(errs.FailedPrecondition, "%s: %w", name, err)
	}
	return hosts, nil
}

// configFolder finds the folder of a registry, "" if there is none.
func configFolder(dir, registry string) string {
	names := []string{registry, "_default"}
	if i := strings.LastIndexByte(registry, ':'); i > 0 {
		names = []string{registry[:i] + "_" + registry[i+1:] + "_", registry, "_default"}
	}
	for _, d := range filepath.SplitList(dir) {
		for _, n := range names {
			folder := filepath.Join(d, n)
			if st, err := os.Stat(folder); err == nil && st.IsDir() {
				return folder
			}
		}
	}
	return ""
}

func parseHosts(text []byte, folder, registry string) ([]Host, error) {
	var f hostsFile
	if err := toml.Unmarshal(text, &f); err != nil {
		return nil, err
	}
	var hosts []Host
	for _, name := range hostOrder(text) {
		fields, ok := f.Host[name]
		if !ok {
			continue
		}
		h, err := fields.host(name, folder)
		if err != nil {
			return nil, fmt.Errorf("host %q: %w", name, err)
		}
		h.Mirror = true
		hosts = append(hosts, h)
	}
	server, err := f.server(folder, registry)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(hosts, func(h Host) bool { return h.Base == server.Base && h.Resolve && h.Pull }) {
		hosts = append(hosts, server)
	}
	return hosts, nil
}

// server is the registry itself, as the top of the file has it.
func (f hostsFile) server(folder, registry string) (Host, error) {
	if f.Server != "" {
		h, err := f.host(f.Server, folder)
		if err != nil {
			return Host{}, fmt.Errorf("server %q: %w", f.Server, err)
		}
		return h, nil
	}
	h, err := upstream(registry)
	if err != nil {
		return Host{}, err
	}
	configured, err := f.host(h.Base.String(), folder)
	if configured.TLS == nil {
		configured.TLS = h.TLS
	}
	return configured, err
}

// hostOrder lists the [host."…"] tables as they stand in the file; a map would forget the order.
func hostOrder(text []byte) []string {
	var order []string
	var p unstable.Parser
	p.Reset(text)
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind != unstable.Table && e.Kind != unstable.KeyValue {
			continue
		}
		var keys []string
		for it := e.Key(); it.Next(); {
			keys = append(keys, string(it.Node().Data))
		}
		if len(keys) >= 2 && keys[0] == "host" && !slices.Contains(order, keys[1]) {
			order = append(order, keys[1])
		}
	}
	return order
}

// host makes a Host of a URL (or bare host name) and what the file says about it.
func (f hostFields) host(where, folder string) (Host, error) {
	if !strings.Contains(where, "://") {
		where = "https://" + where
	}
	u, err := url.Parse(where)
	if err != nil {
		return Host{}, err
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return Host{}, errors.New("not an http or https URL with a host")
	}
	h := Host{Base: url.URL{Scheme: u.Scheme, Host: u.Host, Path: path.Clean("/" + u.Path)}, Resolve: true, Pull: true, Header: http.Header{}}
	if !f.OverridePath && !strings.HasSuffix(h.Base.Path, "/v2") {
		h.Base.Path = path.Join(h.Base.Path, "/v2")
	}
	if f.Capabilities != nil {
		h.Resolve, h.Pull = slices.Contains(f.Capabilities, "resolve"), slices.Contains(f.Capabilities, "pull")
	}
	for k, v := range f.Header {
		values, err := stringsOf(v)
		if err != nil {
			return Host{}, fmt.Errorf("header %s: %w", k, err)
		}
		h.Header[http.CanonicalHeaderKey(k)] = values
	}
	if f.DialTimeout != "" {
		if h.DialTimeout, err = time.ParseDuration(f.DialTimeout); err != nil {
			return Host{}, fmt.Errorf("dial_timeout: %w", err)
		}
	}
	if f.CA != nil || f.Client != nil || f.SkipVerify {
		h.TLS, err = f.tls(folder)
	}
	return h, err
}

func (f hostFields) tls(folder string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: f.SkipVerify} //nolint:gosec // what skip_verify asks for
	if f.CA != nil {
		files, err := stringsOf(f.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		if err := trust(c, folder, files); err != nil {
			return nil, err
		}
	}
	pairs, err := pairsOf(f.Client)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	for _, p := range pairs {
		if err := present(c, folder, p); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// trust adds authorities to the system's.
func trust(c *tls.Config, folder string, files []string) error {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, name := range files {
		pem, err := readBounded(within(folder, name))
		if err != nil {
			return err
		}
		if !pool.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s: no certificate in it", within(folder, name))
		}
	}
	c.RootCAs = pool
	return nil
}

// present adds a client certificate with its key, maybe in one file.
func present(c *tls.Config, folder string, pair [2]string) error {
	cert, err := readBounded(within(folder, pair[0]))
	if err != nil {
		return err
	}
	key := cert
	if pair[1] != "" {
		if key, err = readBounded(within(folder, pair[1])); err != nil {
			return err
		}
	}
	both, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("%s: %w", within(folder, pair[0]), err)
	}
	c.Certificates = append(c.Certificates, both)
	return nil
}

func within(folder, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(folder, name)
}

// stringsOf reads a string or a list of strings.
func stringsOf(v any) ([]string, error) {
	switch v := v.(type) {
	case string:
		return []string{v}, nil
	case []any:
		var all []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, errors.New("not a list of strings")
			}
			all = append(all, s)
		}
		return all, nil
	}
	return nil, errors.New("neither a string nor a list of strings")
}

// pairsOf reads client: a file, a list of files, or a list of [certificate, key].
func pairsOf(v any) ([][2]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return [][2]string{{v, ""}}, nil
	case []any:
		var pairs [][2]string
		for _, e := range v {
			names, err := stringsOf(e)
			if err != nil || len(names) == 0 || len(names) > 2 {
				return nil, errors.New("neither a file, nor a list of files or [certificate, key]")
			}
			pairs = append(pairs, [2]string{names[0], append(names, "")[1]})
		}
		return pairs, nil
	}
	return nil, errors.New("neither a file, nor a list of files or [certificate, key]")
}

// dockerForm reads a folder without hosts.toml as Docker does: *.crt are authorities, *.cert and *.key a client's pair.
func dockerForm(folder, registry string) ([]Host, error) {
	h, err := upstream(registry)
	if err != nil {
		return nil, err
	}
	authorities, _ := filepath.Glob(filepath.Join(folder, "*.crt"))
	certs, _ := filepath.Glob(filepath.Join(folder, "*.cert"))
	if len(authorities)+len(certs) == 0 {
		return []Host{h}, nil
	}
	h.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if len(authorities) > 0 {
		if err := trust(h.TLS, folder, authorities); err != nil {
			return nil, errs.New(errs.FailedPrecondition, "%s: %w", folder, err)
		}
	}
	for _, c := range certs {
		if err := present(h.TLS, folder, [2]string{c, strings.TrimSuffix(c, ".cert") + ".key"}); err != nil {
			return nil, errs.New(errs.FailedPrecondition, "%s: %w", folder, err)
		}
	}
	return []Host{h}, nil
}

// upstream is a registry without any configuration. On loopback it speaks plain HTTP unless its port is 443 or none is given, and then with any
// certificate, as containerd has it.
func upstream(registry string) (Host, error) {
	h := Host{Base: url.URL{Scheme: "https", Host: registry, Path: "/v2"}, Resolve: true, Pull: true, Header: http.Header{}}
	if registry == "docker.io" {
		h.Base.Host = "registry-1.docker.io"
		return h, nil
	}
	name, port, err := net.SplitHostPort(registry)
	if err != nil {
		name, port = strings.Trim(registry, "[]"), ""
	}
	if name != "localhost" && !net.ParseIP(name).IsLoopback() {
		return h, nil
	}
	if port == "" || port == "443" {
		h.TLS = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true} //nolint:gosec // loopback only
		return h, nil
	}
	h.Base.Scheme = "http"
	return h, nil
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(b) > maxConfig {
		err = fmt.Errorf("read %s: over %d bytes", name, maxConfig)
	}
	return b, err
}
