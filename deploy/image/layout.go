package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// The types of the OCI image specification 1.1, as far as this program writes them.

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type index struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []descriptor      `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type imageConfig struct {
	Created string `json:"created"`
	platform
	Config struct {
		User         string              `json:"User"`
		ExposedPorts map[string]struct{} `json:"ExposedPorts"`
		Entrypoint   []string            `json:"Entrypoint"`
		Labels       map[string]string   `json:"Labels"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	History []history `json:"history"`
}

type history struct {
	Created   string `json:"created"`
	CreatedBy string `json:"created_by"`
}

// user is nobody, by number: the image has no file of names. With a number, Kubernetes can tell that it is not root.
const user = "65534:65534"

// An entry is a file of a layer.
type entry struct {
	name string
	mode int64
	data []byte
}

// A layout is the content of an OCI archive.
type layout struct {
	blobs map[string][]byte // digest -> content
	index []byte            // index.json
}

// add stores a blob.
func (l *layout) add(mediaType string, data []byte) descriptor {
	if l.blobs == nil {
		l.blobs = make(map[string][]byte)
	}
	d := digestOf(data)
	l.blobs[d] = data
	return descriptor{MediaType: mediaType, Digest: d, Size: len(data)}
}

func (l *layout) addJSON(mediaType string, v any) descriptor { return l.add(mediaType, toJSON(v)) }

// toJSON encodes a value of the types above: none fails. The keys of maps are sorted.
func toJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// annotations are what registries show about an image.
func (r recipe) annotations() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":    r.program(),
		"org.opencontainers.image.version":  strings.TrimPrefix(r.version, "v"),
		"org.opencontainers.image.created":  r.time.Format(time.RFC3339),
		"org.opencontainers.image.source":   "https://github.com/gopeerjs/peer",
		"org.opencontainers.image.licenses": "MIT",
	}
}

// addImage stores the image for one architecture: one layer, a configuration and the manifest.
func (l *layout) addImage(r recipe, arch string, files []entry) (descriptor, error) {
	var plain, packed bytes.Buffer
	if err := writeTar(&plain, r.time, files); err != nil {
		return descriptor{}, err
	}
	zw, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return descriptor{}, err
	}
	if _, err := zw.Write(plain.Bytes()); err != nil {
		return descriptor{}, err
	}
	if err := zw.Close(); err != nil {
		return descriptor{}, err
	}

	on := platform{arch, "linux"}
	created := r.time.Format(time.RFC3339)
	c := imageConfig{Created: created, platform: on}
	c.Config.User = user
	c.Config.ExposedPorts = map[string]struct{}{"9000/tcp": {}}
	c.Config.Entrypoint = []string{"/" + r.program()}
	c.Config.Labels = r.annotations()
	c.RootFS.Type = "layers"
	c.RootFS.DiffIDs = []string{digestOf(plain.Bytes())}
	c.History = []history{{created, "deploy/image of github.com/gopeerjs/peer"}}

	m := l.addJSON(typeManifest, manifest{
		SchemaVersion: 2,
		MediaType:     typeManifest,
		Config:        l.addJSON(typeConfig, c),
		Layers:        []descriptor{l.add(typeLayer, packed.Bytes())},
		Annotations:   r.annotations(),
	})
	m.Platform = &on
	return m, nil
}

// addIndex stores the image for all architectures, and makes it the one image of the layout.
func (l *layout) addIndex(r recipe, manifests []descriptor) descriptor {
	all := l.addJSON(typeIndex, index{2, typeIndex, manifests, r.annotations()})
	tag := strings.TrimPrefix(r.version, "v")
	named := all
	named.Annotations = map[string]string{
		"org.opencontainers.image.ref.name": tag,                // for skopeo and podman
		"io.containerd.image.name":          r.name + ":" + tag, // for docker
	}
	l.index = toJSON(index{2, typeIndex, []descriptor{named}, nil})
	return all
}

// writeTo writes the archive.
func (l *layout) writeTo(w io.Writer, t time.Time) error {
	files := []entry{
		{"oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{"index.json", 0o644, l.index},
	}
	for _, d := range slices.Sorted(maps.Keys(l.blobs)) {
		files = append(files, entry{"blobs/" + strings.Replace(d, ":", "/", 1), 0o644, l.blobs[d]})
	}
	return writeTar(w, t, files)
}

// writeTar writes files of root with one time, so that nothing depends on who builds and when.
func writeTar(w io.Writer, t time.Time, files []entry) error {
	tw := tar.NewWriter(w)
	for _, f := range files {
		h := tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.data)), ModTime: t, Format: tar.FormatUSTAR}
		if err := tw.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := tw.Write(f.data); err != nil {
			return err
		}
	}
	return tw.Close()
}
