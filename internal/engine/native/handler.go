package native

import (
	"context"

	"fermata/internal/engine"
	"fermata/internal/errs"
	"fermata/internal/linux"
)

// Options configure a handler.
type Options struct{}

// Handler is the native engine. Make one with [New], close it at the end; plans outlive it.
type Handler struct {
	nursery  *linux.FD // the node's: a mount namespace with one empty tmpfs
	features engine.Features
}

var _ engine.Handler = (*Handler)(nil)

// New makes the node's nursery and finds out by trying what this kernel can do.
func New(o Options) (*Handler, error) { return &Handler{}, nil }

// Close lets go of the node's nursery; running pods keep theirs.
func (h *Handler) Close() error { return h.nursery.Close() }

// Features implements [engine.Handler].
func (h *Handler) Features() engine.Features { return h.features }

// Sandbox implements [engine.Handler].
func (h *Handler) Sandbox(ctx context.Context, s *engine.Sandbox) (*engine.Plan, error) {
	return nil, errs.New(errs.Unimplemented, "plan sandbox")
}

// Container implements [engine.Handler].
func (h *Handler) Container(ctx context.Context, c *engine.Container) (*engine.Plan, error) {
	return nil, errs.New(errs.Unimplemented, "plan container")
}

// Exec implements [engine.Handler].
func (h *Handler) Exec(ctx context.Context, e *engine.Exec) (*engine.Plan, error) {
	return nil, errs.New(errs.Unimplemented, "plan exec")
}

// ReadRootfsFile reads a regular file of an image: path is resolved inside the stack of layers (topmost first), at most limit bytes.
func (h *Handler) ReadRootfsFile(layers []string, path string, limit int) ([]byte, error) {
	return nil, errs.New(errs.Unimplemented, "read file of rootfs")
}
