package stream

import (
	"crypto/rand"
	"sync"
	"time"

	"fermata/internal/errs"
)

const (
	// tokenLife is how long an address may be used after it was given.
	tokenLife = time.Minute
	// maxTokens bounds the addresses given and not used yet.
	maxTokens = 1000
)

// tokens are requests that a client may come for, each once. Whoever has a token has what it is for.
type tokens struct {
	mu      sync.Mutex
	waiting map[string]waiting
	now     func() time.Time
}

type waiting struct {
	request any
	until   time.Time
}

// put keeps a request and returns its token.
func (t *tokens) put(request any) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for token, w := range t.waiting {
		if now.After(w.until) {
			delete(t.waiting, token)
		}
	}
	if len(t.waiting) >= maxTokens {
		return "", errs.New(errs.ResourceExhausted, "prepare stream: %d are prepared and not begun, try again in %v", maxTokens, tokenLife)
	}
	token := rand.Text() // 128 bits at least
	t.waiting[token] = waiting{request, now.Add(tokenLife)}
	return token, nil
}

// take returns a token's request; afterwards it is nobody's.
func (t *tokens) take(token string) (request any, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w, ok := t.waiting[token]
	delete(t.waiting, token)
	if !ok || t.now().After(w.until) {
		return nil, false
	}
	return w.request, true
}
