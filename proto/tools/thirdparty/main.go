// Command thirdparty writes the .proto files that Almanac's own files import
// from other projects into a directory.
//
// The files are printed from the descriptors inside the Go packages that the
// generated code links, so they are the versions in use at run time, are
// checked by go.sum, need no schema registry and are not committed.
//
// Usage: thirdparty <directory>. The directory is replaced as a whole.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/jhump/protoreflect/v2/protoprint"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	_ "github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv2/options"
	_ "google.golang.org/genproto/googleapis/api/annotations"
	_ "google.golang.org/genproto/googleapis/rpc/errdetails"
	_ "google.golang.org/genproto/googleapis/rpc/status"
)

// roots are the files that Almanac's own may import; what they import follows.
var roots = []string{
	"buf/validate/validate.proto",
	"google/api/annotations.proto",
	"google/api/field_behavior.proto",
	"google/rpc/error_details.proto",
	"google/rpc/status.proto",
	"protoc-gen-openapiv2/options/annotations.proto",
}

// builtIn files come with every protobuf compiler.
const builtIn = "google/protobuf/"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "thirdparty:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 || args[0] == "" {
		return errors.New("one argument is needed: the directory to write")
	}
	files, err := closure(protoregistry.GlobalFiles, roots)
	if err != nil {
		return err
	}
	return write(args[0], files)
}

// closure returns the named files and everything they import, the built-in
// files aside.
func closure(registry *protoregistry.Files, names []string) ([]protoreflect.FileDescriptor, error) {
	var files []protoreflect.FileDescriptor
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		if seen[name] || strings.HasPrefix(name, builtIn) {
			return nil
		}
		seen[name] = true
		file, err := registry.FindFileByPath(name)
		if err != nil {
			return fmt.Errorf("%s: no linked Go package describes it: %w", name, err)
		}
		imports := file.Imports()
		for i := range imports.Len() {
			if err := visit(imports.Get(i).Path()); err != nil {
				return err
			}
		}
		files = append(files, file)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func write(dir string, files []protoreflect.FileDescriptor) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	var printer protoprint.Printer
	for _, file := range files {
		text, err := printer.PrintProtoToString(file)
		if err != nil {
			return fmt.Errorf("print %s: %w", file.Path(), err)
		}
		path := filepath.Join(dir, filepath.FromSlash(file.Path()))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
