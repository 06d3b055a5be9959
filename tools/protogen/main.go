// Command protogen writes the Go code of a .proto file: the compiler is a Go library, the two generators are run as programs, so
// that no protoc need be installed. All three are pinned in tools/go.mod.
//
//	protogen -out DIR [-check] FILE.proto
//
// With -check it writes nothing and ends with status 1 when a file would change.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

var generators = []string{"protoc-gen-go", "protoc-gen-go-grpc"}

func main() {
	out := flag.String("out", ".", "directory the .proto path and the generated files are relative to")
	check := flag.Bool("check", false, "only compare")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*out, flag.Arg(0), *check); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

func run(out, file string, check bool) error {
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{out}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(context.Background(), file)
	if err != nil {
		return err
	}
	request := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{file},
		Parameter:      proto.String("paths=source_relative"),
		ProtoFile:      []*descriptorpb.FileDescriptorProto{protoutil.ProtoFromFileDescriptor(files[0])},
	}
	input, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	for _, generator := range generators {
		if err := generate(generator, input, out, check); err != nil {
			return fmt.Errorf("%s: %w", generator, err)
		}
	}
	return nil
}

func generate(generator string, input []byte, out string, check bool) error {
	cmd := exec.Command("go", "tool", "-modfile="+os.Getenv("TOOLS_MOD"), generator)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), os.Stderr
	output, err := cmd.Output()
	if err != nil {
		return err
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(output, &response); err != nil {
		return err
	}
	if response.Error != nil {
		return fmt.Errorf("%s", *response.Error)
	}
	for _, f := range response.File {
		path := filepath.Join(out, f.GetName())
		if check {
			if old, err := os.ReadFile(path); err != nil || string(old) != f.GetContent() {
				return fmt.Errorf("%s is not what %s makes now: run `make generate`", path, generator)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
