// Command demo is what the pod of `make run` runs: a small HTTP server and a client that asks it over localhost. Both tell what a
// pod shares (network, IPC, host name) and what it does not (mounts, PIDs), as their own processes see it.
//
//	demo serve [ADDRESS]     answer on ADDRESS (default :8080)
//	demo get URL             ask URL until it answers, for 10s at most, and print the answer
//	demo ask [URL [EVERY]]   ask URL (default http://localhost:8080) again and again, every EVERY (default 2s)
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	argument := func(i int, fallback string) string {
		if i < len(args) {
			return args[i]
		}
		return fallback
	}
	switch argument(0, "serve") {
	case "serve":
		return serve(ctx, argument(1, ":8080"))
	case "get":
		return getOnce(ctx, argument(1, "http://localhost:8080"))
	case "ask":
		every, err := time.ParseDuration(argument(2, "2s"))
		if err != nil {
			return err
		}
		return ask(ctx, argument(1, "http://localhost:8080"), every)
	}
	return fmt.Errorf("command %q: only serve, get and ask", args[0])
}

// whoAmI is a line about the process's surroundings.
func whoAmI() string {
	host, err := os.Hostname()
	if err != nil {
		host = err.Error()
	}
	namespace, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		namespace = err.Error()
	}
	return fmt.Sprintf("host %s, pid %d, %s", host, os.Getpid(), namespace)
}

func serve(ctx context.Context, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Printf("%s %s from %s\n", r.Method, r.URL.Path, r.RemoteAddr)
		fmt.Fprintf(w, "Hello from a fermata pod: %s\n", whoAmI())
	})}
	fmt.Printf("serving on %s: %s\n", listener.Addr(), whoAmI())
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	fmt.Println("told to stop")
	return nil
}

// ask goes on when the server is not there yet: containers of a pod start in no promised order.
func ask(ctx context.Context, url string, every time.Duration) error {
	fmt.Printf("asking %s: %s\n", url, whoAmI())
	for {
		if answer, err := get(ctx, url); err != nil {
			fmt.Println("no answer:", err)
		} else {
			fmt.Println("answer:", answer)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
	}
}

// getOnce waits for a server that has only just been started.
func getOnce(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		answer, err := get(ctx, url)
		if err == nil {
			fmt.Println(answer)
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func get(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<16))
	return strings.TrimSpace(string(body)), err
}
