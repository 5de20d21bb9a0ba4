package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// waitLimit bounds every wait of a test for something that must happen.
const waitLimit = 20 * time.Second

// An archive is what a reader of OCI archives finds in one: files by their names.
type archive map[string][]byte

// unpack reads a tar file, whose files all belong to root.
func unpack(t *testing.T, data []byte) (files archive, modes map[string]int64) {
	t.Helper()
	files, modes = make(archive), make(map[string]int64)
	for tr := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return files, modes
		}
		require.NoError(t, err)
		require.Equal(t, []int{0, 0}, []int{h.Uid, h.Gid}, h.Name)
		require.Zero(t, h.ModTime.Unix(), h.Name)
		files[h.Name], err = io.ReadAll(tr)
		require.NoError(t, err)
		modes[h.Name] = h.Mode
	}
}

// blob returns the content that a descriptor names, as v if it is JSON of ours.
func (a archive) blob(t *testing.T, d descriptor, v any) []byte {
	t.Helper()
	data, found := a["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
	require.True(t, found, d.Digest)
	require.Equal(t, digestOf(data), d.Digest)
	require.Len(t, data, d.Size)
	if v != nil {
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		require.NoError(t, dec.Decode(v))
	}
	return data
}

// build builds the image of examples/peerjs, and returns its digest and the archive.
func build(t *testing.T) (digest string, data []byte) {
	t.Helper()
	t.Setenv("SOURCE_DATE_EPOCH", "")
	file := filepath.Join(t.TempDir(), "image.tar")
	digest, err := recipe{dir: "../../examples/peerjs", name: "ghcr.io/gopeerjs/peer", version: "v1.2.3"}.write(file)
	require.NoError(t, err)
	data, err = os.ReadFile(file)
	require.NoError(t, err)
	return digest, data
}

// root unpacks the image for an architecture, and returns the files and the configuration.
func root(t *testing.T, all archive, images []descriptor, arch string) (archive, imageConfig) {
	t.Helper()
	i := slices.IndexFunc(images, func(d descriptor) bool { return *d.Platform == platform{arch, "linux"} })
	require.GreaterOrEqual(t, i, 0, arch)
	var m manifest
	all.blob(t, images[i], &m)
	var c imageConfig
	all.blob(t, m.Config, &c)
	require.Len(t, m.Layers, 1)
	zr, err := gzip.NewReader(bytes.NewReader(all.blob(t, m.Layers[0], nil)))
	require.NoError(t, err)
	plain, err := io.ReadAll(zr)
	require.NoError(t, err)
	require.Equal(t, []string{digestOf(plain)}, c.RootFS.DiffIDs)
	require.Equal(t, arch, c.Architecture)
	files, modes := unpack(t, plain)
	require.Equal(t, map[string]int64{"LICENSE": 0o444, "THIRD-PARTY-LICENSES": 0o444, "peerjs": 0o555}, modes)
	return files, c
}

func TestTheImageRunsAsNobodyAndIsTheSameEachTime(t *testing.T) {
	digest, data := build(t)
	all, _ := unpack(t, data)
	require.JSONEq(t, `{"imageLayoutVersion":"1.0.0"}`, string(all["oci-layout"]))
	var top, images index
	require.NoError(t, json.Unmarshal(all["index.json"], &top))
	require.Len(t, top.Manifests, 1)
	require.Equal(t, digest, top.Manifests[0].Digest)
	require.Equal(t, "ghcr.io/gopeerjs/peer:1.2.3", top.Manifests[0].Annotations["io.containerd.image.name"])
	all.blob(t, top.Manifests[0], &images)
	require.Len(t, images.Manifests, len(platforms))

	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		files, c := root(t, all, images.Manifests, arch)
		require.Equal(t, "65534:65534", c.Config.User)
		require.Equal(t, []string{"/peerjs"}, c.Config.Entrypoint)
		program, err := elf.NewFile(bytes.NewReader(files["peerjs"]))
		require.NoError(t, err)
		require.Equal(t, machine, program.Machine)
		libraries, err := program.ImportedLibraries()
		require.NoError(t, err)
		require.Empty(t, libraries)
		require.Less(t, len(files["peerjs"]), 12<<20, "the image is small")
		require.NotContains(t, string(files["peerjs"]), repository(t), "it has paths of this machine")
		info, err := buildinfo.Read(bytes.NewReader(files["peerjs"]))
		require.NoError(t, err)
		require.NotEmpty(t, info.Deps)
		require.Contains(t, string(files["THIRD-PARTY-LICENSES"]), "== "+info.GoVersion+"\n")
		for _, dep := range info.Deps {
			require.Contains(t, string(files["THIRD-PARTY-LICENSES"]), "== "+dep.Path+" "+dep.Version+"\n")
		}
	}

	t.Run("the same each time", func(t *testing.T) {
		t.Setenv("TZ", "Asia/Tokyo")
		t.Setenv("GOFLAGS", "-tags=other")
		t.Setenv("CGO_ENABLED", "1")
		again, data2 := build(t)
		require.Equal(t, digest, again)
		require.Equal(t, digestOf(data), digestOf(data2))
	})
	t.Run("in a root of its own", func(t *testing.T) { runInside(t, all, images.Manifests) })
}

func repository(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	require.NoError(t, err)
	return dir
}

// runInside runs the program of the image with nothing but the image, as the user of the image.
func runInside(t *testing.T, all archive, images []descriptor) {
	if os.Getuid() != 0 {
		t.Skip("only root may change the root directory")
	}
	goarch, err := exec.Command("go", "env", "GOARCH").Output()
	require.NoError(t, err)
	arch := strings.TrimSpace(string(goarch))
	if !slices.Contains(platforms, arch) {
		t.Skip("there is no image for " + arch)
	}
	files, _ := root(t, all, images, arch)
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o555))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), files[name], 0o555))
	}
	inside := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "/peerjs", args...)
		cmd.Dir, cmd.Env = "/", []string{}
		nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir, Credential: nobody, Pdeathsig: syscall.SIGKILL}
		return cmd
	}
	version, err := inside("--version").CombinedOutput()
	require.NoError(t, err, "%s", version)
	require.Regexp(t, `^peerjs v1\.2\.3 \(go\S+ linux/`+arch+`\)\n$`, string(version))

	server := inside("--host", "127.0.0.1", "--port", "0", "--proxied")
	out, err := server.StdoutPipe()
	require.NoError(t, err)
	server.Stderr = os.Stderr
	require.NoError(t, server.Start())
	late := time.AfterFunc(waitLimit, func() { server.Process.Kill() })
	defer late.Stop()
	defer server.Process.Kill()
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan(), "the server has ended")
	port := regexp.MustCompile(`:(\d+)/`).FindStringSubmatch(lines.Text())
	require.NotNil(t, port, lines.Text())
	check := func() ([]byte, error) {
		return inside("--host", "127.0.0.1", "--port", port[1], "--healthcheck").CombinedOutput()
	}
	said, err := check()
	require.NoError(t, err, "%s", said)

	require.NoError(t, server.Process.Signal(syscall.SIGTERM))
	for lines.Scan() {
	}
	require.NoError(t, server.Wait())
	said, err = check()
	var exit *exec.ExitError
	require.True(t, errors.As(err, &exit), "%s", said)
	assert.Equal(t, 1, exit.ExitCode())
}

func TestTheTimeOfTheSourceIsThatOfTheImage(t *testing.T) {
	at, err := sourceTime("1700000000")
	require.NoError(t, err)
	require.Equal(t, "2023-11-14T22:13:20Z", at.Format(time.RFC3339))
	_, err = sourceTime("yesterday")
	require.ErrorContains(t, err, "SOURCE_DATE_EPOCH")
	var l layout
	r := recipe{dir: "peerjs", version: "v1.2.3", time: at}
	d, err := l.addImage(r, "arm64", []entry{{"peerjs", 0o555, nil}})
	require.NoError(t, err)
	require.Contains(t, string(l.blobs[d.Digest]), "2023-11-14T22:13:20Z")
}

func TestAProgramThatDoesNotCompileMakesNoImage(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n"), 0o600))
	_, err := recipe{dir: dir, version: "v1.2.3"}.build("amd64")
	require.ErrorContains(t, err, "building "+dir)
}
