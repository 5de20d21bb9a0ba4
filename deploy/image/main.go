// Command image builds a container image of a program of this repository, for amd64 and arm64. It needs neither a
// container engine nor a base image: the image has the program, without a shell, and runs it as nobody.
//
//	go run -C deploy ./image -version v0.1.0 -o peerjs.tar
//
// It writes an OCI archive, which skopeo, podman and docker read, and prints the digest that a registry gives to
// the image. The same source, version of Go and SOURCE_DATE_EPOCH (default: 0) give the same digest.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// A recipe says what an image is made of.
type recipe struct {
	dir     string    // of the program, a directory with a main package; its name is that of the program
	name    string    // of the image, without a tag
	version string    // with the letter v
	time    time.Time // of each file, and of the image
}

// platforms are those of the image. All are Linux.
var platforms = []string{"amd64", "arm64"}

func main() {
	r := recipe{}
	flag.StringVar(&r.dir, "dir", "../examples/peerjs", "`directory` of the program")
	flag.StringVar(&r.name, "name", "ghcr.io/gopeerjs/peer", "`name` of the image, without a tag")
	flag.StringVar(&r.version, "version", "", "`version` with the letter v, as v0.1.0 (required)")
	out := flag.String("o", "", "`file` to write (required)")
	flag.Parse()
	if r.version == "" || *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	digest, err := r.write(*out)
	if err != nil {
		fmt.Fprintf(os.Stderr, "image: %v\n", err)
		os.Exit(1)
	}
	fmt.Println(digest)
}

// write builds the image, writes the archive to a file, and returns the digest of the image.
func (r recipe) write(file string) (digest string, err error) {
	if r.time, err = sourceTime(os.Getenv("SOURCE_DATE_EPOCH")); err != nil {
		return "", err
	}
	license, err := os.ReadFile(filepath.Join(r.dir, "..", "..", "LICENSE"))
	if err != nil {
		return "", err
	}
	var l layout
	var manifests []descriptor
	for _, arch := range platforms {
		program, err := r.build(arch)
		if err != nil {
			return "", err
		}
		others, err := r.licenses(arch)
		if err != nil {
			return "", err
		}
		m, err := l.addImage(r, arch, []entry{
			{"LICENSE", 0o444, license}, {"THIRD-PARTY-LICENSES", 0o444, others}, {r.program(), 0o555, program},
		})
		if err != nil {
			return "", err
		}
		manifests = append(manifests, m)
	}
	index := l.addIndex(r, manifests)
	f, err := os.Create(file)
	if err != nil {
		return "", err
	}
	if err = l.writeTo(f, r.time); err != nil {
		f.Close()
		return "", err
	}
	return index.Digest, f.Close()
}

func sourceTime(epoch string) (time.Time, error) {
	if epoch == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH must be a number of seconds: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

func (r recipe) program() string {
	abs, err := filepath.Abs(r.dir)
	if err != nil {
		return filepath.Base(r.dir)
	}
	return filepath.Base(abs)
}

// build compiles the program, as deploy/archives does: without paths, and without what only this machine has.
func (r recipe) build(arch string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "image")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "program")
	cmd := exec.Command("go", "build", "-C", r.dir, "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= -X main.version="+r.version, "-o", file, ".")
	cmd.Env = environment(arch)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("building %s for %s: %w", r.dir, arch, err)
	}
	return os.ReadFile(file)
}

// licenses returns the licenses of what the program is linked with.
func (r recipe) licenses(arch string) ([]byte, error) {
	cmd := exec.Command(filepath.Join(r.dir, "..", "..", "deploy", "licenses"), r.dir)
	cmd.Env = environment(arch)
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("collecting the licenses of %s: %w", r.dir, err)
	}
	return text, nil
}

func environment(arch string) []string {
	return append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0")
}
