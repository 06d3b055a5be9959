package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"

	"fermata/internal/errs"
	"fermata/internal/image/reference"
)

// Credentials are what a registry is shown; see image.Credentials. They print as nothing.
type Credentials struct {
	Username, Password, Auth, ServerAddress, IdentityToken, RegistryToken string
}

// String keeps credentials out of every text.
func (c *Credentials) String() string { return "(credentials)" }

// GoString does too.
func (c *Credentials) GoString() string { return "(credentials)" }

// Check reads Auth into Username and Password.
func (c *Credentials) Check() (*Credentials, error) {
	if c == nil || c.Auth == "" || c.Username != "" || c.IdentityToken != "" {
		return c, nil
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimRight(c.Auth, "\x00"))
	user, password, ok := strings.Cut(string(b), ":")
	if err != nil || !ok {
		return nil, errs.New(errs.InvalidArgument, "registry credentials: auth is not base64 of user:password")
	}
	d := *c
	d.Username, d.Password = user, strings.Trim(password, "\x00")
	return &d, nil
}

// meantFor says whether the credentials may be shown to a host. Without a server address they are for whatever the image's name leads to, mirrors included.
func (c *Credentials) meantFor(h Host, ref reference.Reference) bool {
	if c == nil {
		return false
	}
	if c.ServerAddress == "" {
		return true
	}
	host := hostOf(c.ServerAddress)
	return host == h.Base.Host || !h.Mirror && host == hostOf(ref.Domain)
}

// hostOf is the host in an address with or without scheme and path, Docker's many names being one.
func hostOf(address string) string {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	host, _, _ := strings.Cut(address, "/")
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		return reference.DefaultDomain
	}
	return host
}

const maxToken = 1 << 20

// authorize answers a 401: it returns the Authorization header to try next, "" if there is none.
func (e *endpoint) authorize(ctx context.Context, challenges []challenge) (string, error) {
	c := e.credentials
	if c != nil && c.RegistryToken != "" {
		return "Bearer " + c.RegistryToken, nil
	}
	for _, ch := range challenges {
		switch ch.scheme {
		case "bearer":
			return e.bearer(ctx, ch)
		case "basic":
			if c != nil && c.Username != "" {
				return basic(c), nil
			}
		}
	}
	return "", nil
}

func basic(c *Credentials) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password))
}

// bearer asks the token service that a challenge names, by Docker's token specification; an identity token by OAuth first.
func (e *endpoint) bearer(ctx context.Context, ch challenge) (string, error) {
	realm, err := url.Parse(ch.params["realm"])
	if err != nil || realm.Host == "" || realm.Scheme != "https" && (realm.Scheme != "http" || e.host.Base.Scheme != "http") {
		return "", errs.New(errs.PermissionDenied, "authenticate with %s: it names an unusable token service %q", e.host.Base.Host, clip(ch.params["realm"]))
	}
	scope := ch.params["scope"]
	if scope == "" {
		scope = "repository:" + e.repository + ":pull"
	}
	if e.credentials != nil && e.credentials.IdentityToken != "" {
		tok, status, err := e.askOAuth(ctx, realm, ch, scope)
		if err != nil || status != http.StatusNotFound && status != http.StatusMethodNotAllowed {
			return tok, err
		}
	}
	q := realm.Query()
	q.Set("scope", scope)
	if ch.params["service"] != "" {
		q.Set("service", ch.params["service"])
	}
	u := *realm
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	if c := e.credentials; c != nil && c.Username != "" {
		req.Header.Set("Authorization", basic(c))
	}
	tok, _, err := e.askToken(req)
	return tok, err
}

func (e *endpoint) askOAuth(ctx context.Context, realm *url.URL, ch challenge, scope string) (string, int, error) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {e.credentials.IdentityToken}, "client_id": {"fermata"},
		"scope": {scope}, "service": {ch.params["service"]}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	tok, status, err := e.askToken(req)
	if status == http.StatusNotFound || status == http.StatusMethodNotAllowed {
		return "", status, nil
	}
	return tok, status, err
}

// askToken sends a request to the token service. No part of the answer gets into an error: it may be a secret.
func (e *endpoint) askToken(req *http.Request) (authorization string, status int, err error) {
	resp, err := e.send(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", resp.StatusCode, statusError(req, resp.StatusCode, "")
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxToken))
	if err != nil {
		return "", 0, requestError(req, err)
	}
	var answer struct {
		Token  string `json:"token"`
		Access string `json:"access_token"`
	}
	if json.Unmarshal(b, &answer) != nil || answer.Token == "" && answer.Access == "" {
		return "", 0, errs.New(errs.PermissionDenied, "%s %s: no token in the answer", req.Method, place(req.URL))
	}
	if answer.Token == "" {
		answer.Token = answer.Access
	}
	return "Bearer " + answer.Token, http.StatusOK, nil
}
