package registry

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// Auth is who may pull.
type Auth struct {
	Username, Password string
	// Bearer makes the registry hand out tokens at /token (Docker's token specification) instead of taking basic credentials.
	Bearer bool
	// IdentityToken is taken at /token as an OAuth refresh token (POST); "" means that POST is answered 404.
	IdentityToken string
	// RegistryToken is taken as a bearer token as it is.
	RegistryToken string
	// Anonymous lets /token hand out tokens without credentials.
	Anonymous bool
	// Realm replaces the registry's own /token.
	Realm string
}

const token = "a-token-from-the-test-registry"

// refuse answers and returns true unless the request may go on.
func (a *Auth) refuse(r *Registry, w http.ResponseWriter, q *http.Request) bool {
	if a.Bearer && q.URL.Path == "/token" {
		a.grant(w, q)
		return true
	}
	given := q.Header.Get("Authorization")
	if a.Bearer {
		if given == "Bearer "+token || a.RegistryToken != "" && given == "Bearer "+a.RegistryToken {
			return false
		}
		realm := a.Realm
		if realm == "" {
			realm = r.URL() + "/token"
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="testkit",scope="repository:%s:pull"`, realm, repository(q.URL.Path)))
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return true
	}
	if user, password, ok := q.BasicAuth(); ok && user == a.Username && password == a.Password {
		return false
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="testkit"`)
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return true
}

func (a *Auth) grant(w http.ResponseWriter, q *http.Request) {
	allowed := a.Anonymous
	if q.Method == http.MethodPost {
		if a.IdentityToken == "" {
			fail(w, http.StatusNotFound, "NOT_FOUND", "no OAuth here")
			return
		}
		allowed = q.PostFormValue("grant_type") == "refresh_token" && q.PostFormValue("refresh_token") == a.IdentityToken ||
			q.PostFormValue("grant_type") == "password" && q.PostFormValue("username") == a.Username && q.PostFormValue("password") == a.Password
	} else if user, password, ok := q.BasicAuth(); ok {
		allowed = user == a.Username && password == a.Password
	}
	if !allowed {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "wrong credentials")
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 300})
}

// repository is the repository's name in a /v2/ path.
func repository(path string) string {
	path = strings.TrimPrefix(path, "/v2/")
	for _, cut := range []string{"/manifests/", "/blobs/"} {
		if repo, _, ok := strings.Cut(path, cut); ok {
			return repo
		}
	}
	return ""
}
