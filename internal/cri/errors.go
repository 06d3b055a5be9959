package cri

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"fermata/internal/errs"
)

// Codes is the one map from kinds of errors to gRPC codes.
var Codes = map[errs.Kind]codes.Code{
	errs.Internal:           codes.Internal,
	errs.InvalidArgument:    codes.InvalidArgument,
	errs.Unimplemented:      codes.Unimplemented,
	errs.NotFound:           codes.NotFound,
	errs.AlreadyExists:      codes.AlreadyExists,
	errs.FailedPrecondition: codes.FailedPrecondition,
	errs.ResourceExhausted:  codes.ResourceExhausted,
	errs.PermissionDenied:   codes.PermissionDenied,
	errs.Unavailable:        codes.Unavailable,
	errs.Canceled:           codes.Canceled,
	errs.DeadlineExceeded:   codes.DeadlineExceeded,
}

// toStatus gives an error its code. One that is a status already (the Unimplemented servers') stays.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(Codes[errs.KindOf(err)], brief(err.Error()))
}

// maxText bounds an error's text, in bytes: it goes into a header and into people's logs, and quotes requests, which may be megabytes.
const maxText = 8 << 10

// brief cuts the middle out of a long text: it begins with what was tried and ends with the cause.
func brief(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText*3/4], "") + " … " + strings.ToValidUTF8(text[len(text)-maxText/4:], "")
}

// Interceptors are the server options every service of the daemon shares: codes, a log line a call, and a panic that costs one call, not the node.
func Interceptors(log *slog.Logger) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
			began := time.Now()
			defer func() {
				err = finish(log, info.FullMethod, began, recover(), err)
			}()
			if err := checkRequest(req); err != nil {
				return nil, fmt.Errorf("%s: %w", info.FullMethod, err)
			}
			return handler(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
			began := time.Now()
			defer func() {
				err = finish(log, info.FullMethod, began, recover(), err)
			}()
			return handler(srv, incoming{ss})
		}),
	}
}

// finish turns the end of a call into its status and its line in the log.
func finish(log *slog.Logger, method string, began time.Time, panicked any, err error) error {
	if panicked != nil {
		log.Error("a call panicked: this is a bug", "method", method, "panic", panicked, "stack", string(debug.Stack()))
		return status.Errorf(codes.Internal, "%s: a bug in fermata (panic), see the daemon's log: %v", method, panicked)
	}
	took := time.Since(began)
	err = toStatus(err)
	switch status.Code(err) {
	case codes.OK, codes.NotFound, codes.Unimplemented, codes.Canceled:
		log.Debug("call", "method", method, "took", took, "error", err)
	default:
		log.Info("call", "method", method, "took", took, "error", err)
	}
	return err
}
